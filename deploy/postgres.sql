-- Read by the postgres image when its volume is empty: the second database, for MLflow.
CREATE DATABASE mlflow;
