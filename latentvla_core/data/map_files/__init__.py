"""nuPlan maps out of GeoPackages."""
