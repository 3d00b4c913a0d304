FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --locked --profile dist -p intellirouter-gateway -p intellirouter-backends --bins

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --no-create-home intellirouter
COPY --from=build \
  /src/target/dist/intellirouter \
  /src/target/dist/intellirouter-chain-engine \
  /src/target/dist/intellirouter-model-registry \
  /usr/local/bin/
USER 10001
EXPOSE 8443 9901
ENTRYPOINT ["intellirouter"]
CMD ["gateway", "--config", "/etc/intellirouter/gateway.toml"]
