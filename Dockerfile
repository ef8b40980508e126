# One image, two targets. Not built where it was written (no container engine there); see docs/operations.md.
FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 DAGSTER_HOME=/opt/latentvla/dagster_home MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true
WORKDIR /opt/latentvla
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY latentvla_core latentvla_core
COPY pipelines pipelines
COPY deploy deploy
COPY deploy/dagster.yaml dagster_home/dagster.yaml
RUN useradd --uid 1000 --create-home latentvla && mkdir -p /var/lib/latentvla \
 && chown -R 1000:1000 /var/lib/latentvla /opt/latentvla

FROM base AS cpu
# TORCH_INDEX: index of CPU wheels; without it pip takes the build with CUDA, which works too but is larger.
ARG TORCH_INDEX=""
RUN pip install --no-cache-dir torch==2.13.0 ${TORCH_INDEX:+--index-url $TORCH_INDEX} \
 && pip install --no-cache-dir -c constraints.txt -e '.[alpasim,ui,deploy]'

FROM base AS gpu
RUN pip install --no-cache-dir torch==2.13.0 && pip install --no-cache-dir -c constraints.txt -e '.[alpasim,ui,deploy]'
