"""How a run was driven: nuPlan's, CARLA's, AlpaSim's and NeuroNCAP's scores over plain arrays."""
