# A manager worker of this application. It keeps nothing: state is in Temporal and in the database.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app

COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY orchestrator ./orchestrator
# As an environment variable, so that what the package is built with is pinned, too.
RUN PIP_CONSTRAINT=constraints.txt pip install '.[app]' && rm -rf orchestrator

COPY worker.py ./
COPY events ./events
COPY activities ./activities
COPY migrations ./migrations
COPY workflows ./workflows
# Without bytecode, each process would compile the application when it starts.
RUN python -m compileall -q events activities migrations workflows

RUN useradd --system --no-create-home worker
USER worker

# On SIGTERM the worker drains for up to 25 s: whoever stops it must wait longer before killing it, as
# docker-compose.yml does (`docker stop --time 30`, `terminationGracePeriodSeconds: 30`).
# More processes in one container: ORCHESTRATOR_PROCESSES.
STOPSIGNAL SIGTERM
CMD ["python", "worker.py"]
