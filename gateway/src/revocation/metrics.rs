//! The figures of revocations.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// See the module's comment.
pub(crate) struct RevocationMetrics {
    entries: Gauge,
    file_good: Gauge,
    store_connected: Gauge,
}

impl RevocationMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let gauge = |registry: &mut Registry, name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Self {
            entries: gauge(
                registry,
                "revocations",
                "Revocations that the gateway knows, from file and store",
            ),
            file_good: gauge(
                registry,
                "revocation_file_good",
                "0 while the revocation file is bad or gone and its last good entries hold",
            ),
            store_connected: gauge(
                registry,
                "revocation_store_connected",
                "0 while there is a revocation store and it does not answer",
            ),
        }
    }

    pub(crate) fn set(&self, entries: usize, file_good: bool, store_connected: bool) {
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.file_good.set(i64::from(file_good));
        self.store_connected.set(i64::from(store_connected));
    }
}
