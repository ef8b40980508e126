"""What are pictures and latent actions worth? One small planner, told different things.

The planner is a menu: proposals from the ego status alone, and a scorer that chooses. Variants
(`variants.py`) differ in nothing but what the scorer is told. Legend: N scenes, K proposals,
T = 8 poses, D numbers of a scene's pictures, A = 12 action tokens of C = 16 codes.
"""
