# `. deploy/machine.sh` in the checkout: the variables of docker-compose.yml for one machine without
# containers, with .env's passwords, and $DAGSTER_HOME made ready. docs/operations.md says what is
# started then; tests/pipelines/test_machine.py holds both files together.
set -a
. ./.env
LATENTVLA_HOME=${LATENTVLA_HOME:-$PWD/.latentvla}
LATENTVLA_LAKE=${LATENTVLA_LAKE:-s3://latentvla/lake}
DAGSTER_HOME=${DAGSTER_HOME:-$LATENTVLA_HOME/dagster}
DAGSTER_PG_URL=postgresql+psycopg2://latentvla:$POSTGRES_PASSWORD@127.0.0.1:5432/dagster
MLFLOW_TRACKING_URI=http://127.0.0.1:5000
MLFLOW_BACKEND_STORE_URI=postgresql+psycopg2://latentvla:$POSTGRES_PASSWORD@127.0.0.1:5432/mlflow
MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
AWS_ENDPOINT_URL=${AWS_ENDPOINT_URL:-http://127.0.0.1:8333}
MLFLOW_S3_ENDPOINT_URL=$AWS_ENDPOINT_URL
AWS_REGION=${AWS_REGION:-us-east-1}
AWS_DEFAULT_REGION=$AWS_REGION
AWS_ALLOW_HTTP=true
HF_HUB_OFFLINE=1
MLFLOW_DISABLE_TELEMETRY=true
DO_NOT_TRACK=true
PATH=$PWD/.venv/bin:$PATH
set +a
mkdir -p "$DAGSTER_HOME"
sed "s#/var/lib/latentvla#$LATENTVLA_HOME#" deploy/dagster.yaml > "$DAGSTER_HOME/dagster.yaml"
sed 's#host: code#host: 127.0.0.1#' deploy/workspace.yaml > "$DAGSTER_HOME/workspace.yaml"
