//! How the issuers' keys are, as operators read it: `/readyz` and `/metrics`.

use std::fmt::Write as _;

use intellirouter::security::IssuerStatus;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct IssuerLabels {
    issuer: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FetchLabels {
    issuer: String,
    result: &'static str,
}

/// Whether any token can be verified at all. One issuer that is away makes nobody else wait.
pub(crate) fn any_usable(statuses: &[IssuerStatus]) -> bool {
    statuses.iter().any(|status| status.keys > 0)
}

/// A line for each issuer.
pub(crate) fn lines(statuses: &[IssuerStatus]) -> String {
    let mut text = String::new();
    for status in statuses {
        // Writing to a string can't fail.
        let _ = write!(text, "issuer {}: {} keys", status.issuer, status.keys);
        if let Some(fetched) = &status.fetched {
            let _ = match fetched.age {
                Some(age) => write!(text, ", fetched {} s ago", age.as_secs()),
                None => write!(text, ", never fetched"),
            };
            if let Some(error) = &fetched.last_error {
                let _ = write!(text, "; the last fetch failed: {error}");
            }
        }
        text.push('\n');
    }
    text
}

/// The metrics of now. Made anew at each look, so that nothing is left of an issuer that is gone.
pub(crate) fn metrics(statuses: &[IssuerStatus]) -> Registry {
    let keys = Family::<IssuerLabels, Gauge>::default();
    let age = Family::<IssuerLabels, Gauge>::default();
    let fetches = Family::<FetchLabels, Counter>::default();
    for status in statuses {
        let issuer = || status.issuer.clone();
        keys.get_or_create(&IssuerLabels { issuer: issuer() })
            .set(whole(status.keys as u64));
        let Some(fetched) = &status.fetched else {
            continue;
        };
        if let Some(since) = fetched.age {
            age.get_or_create(&IssuerLabels { issuer: issuer() })
                .set(whole(since.as_secs()));
        }
        for (result, number) in [("ok", fetched.succeeded), ("error", fetched.failed)] {
            let labels = FetchLabels {
                issuer: issuer(),
                result,
            };
            fetches.get_or_create(&labels).inc_by(number);
        }
    }
    let mut registry = Registry::with_prefix("intellirouter");
    registry.register("jwks_keys", "Keys that can verify an issuer's tokens", keys);
    registry.register(
        "jwks_age_seconds",
        "Time since an issuer's keys were fetched",
        age,
    );
    registry.register("jwks_fetches", "Fetches of an issuer's keys", fetches);
    registry
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
