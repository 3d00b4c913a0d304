//! `[trace]`: where spans of calls go, and of how many calls.

use std::path::PathBuf;

use serde::Deserialize;

use super::validate::Validate;

/// `[trace]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileTrace {
    /// The OpenTelemetry collector: OTLP over gRPC, such as `http://127.0.0.1:4317`; `https://`
    /// too. Required.
    pub(crate) otlp_endpoint: Option<String>,
    /// Authorities that the collector's certificate may come from, PEM; default: the system's.
    pub(crate) ca_file: Option<String>,
    /// The share of calls that is traced, 0 to 1; default 0.01.
    pub(crate) sample: Option<f64>,
    /// Whether the caller's sampled flag decides where it sends one; default false: only its trace
    /// id is continued, and the share decides.
    pub(crate) follow_caller: bool,
    /// `service.name` of the spans; default `intellirouter-gateway`.
    pub(crate) service_name: Option<String>,
    /// Whether spans name the caller's subject, as `enduser.id`; default false.
    pub(crate) include_subject: bool,
}

/// Where spans go, and of how many calls.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TraceConfig {
    pub(crate) endpoint: String,
    pub(crate) ca_file: Option<PathBuf>,
    /// The share of calls, 0 to 1.
    pub(crate) sample: f64,
    pub(crate) follow_caller: bool,
    pub(crate) service_name: String,
    pub(crate) include_subject: bool,
}

impl Validate<'_, '_> {
    pub(super) fn trace(&mut self, file: Option<FileTrace>) -> Option<TraceConfig> {
        let file = file?;
        let sample = file.sample.unwrap_or(0.01);
        if !(0.0..=1.0).contains(&sample) {
            let message = format!("expected 0 to 1, the share of calls, found {sample}");
            self.source.fault("trace.sample", message);
        }
        let service_name = file
            .service_name
            .unwrap_or_else(|| "intellirouter-gateway".into());
        if service_name.trim().is_empty() {
            self.source.fault("trace.service_name", "expected a name");
        }
        let endpoint = self.collector(file.otlp_endpoint);
        if file.ca_file.is_some() && endpoint.starts_with("http://") {
            self.source
                .fault("trace.ca_file", "needs an otlp_endpoint with https://");
        }
        Some(TraceConfig {
            endpoint,
            ca_file: file
                .ca_file
                .map(|path| self.file("trace.ca_file", Some(path))),
            sample,
            follow_caller: file.follow_caller,
            service_name,
            include_subject: file.include_subject,
        })
    }

    /// A URL with a scheme, a host and a port alone: credentials for a
    /// collector stand in `OTEL_EXPORTER_OTLP_HEADERS`.
    fn collector(&mut self, text: Option<String>) -> String {
        let Some(text) = text else {
            self.source.fault("trace", "otlp_endpoint: missing");
            return String::new();
        };
        let plain = url::Url::parse(&text).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.path() == "/"
                && url.query().is_none()
                && url.fragment().is_none()
        });
        if !plain {
            self.source.fault(
                "trace.otlp_endpoint",
                "expected \"http://HOST:PORT\" or \"https://HOST:PORT\" and nothing after it",
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;
    use crate::test_util::config;

    fn faults(text: &str) -> String {
        let config = Config::parse(text, "test.toml", Path::new(""));
        config
            .err()
            .map(|faults| faults.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn without_the_section_nothing_is_traced() {
        assert_eq!(config("").trace, None);
    }

    #[test]
    fn an_endpoint_alone_traces_one_call_in_a_hundred_and_names_nobody() {
        let trace = config("[trace]\notlp_endpoint = 'http://127.0.0.1:4317'\n").trace;
        let trace = trace.unwrap();
        assert_eq!(trace.sample, 0.01);
        assert_eq!(trace.service_name, "intellirouter-gateway");
        assert!(!trace.follow_caller && !trace.include_subject);
    }

    #[test]
    fn a_whole_number_is_a_share_too() {
        let text = "[trace]\notlp_endpoint = 'https://collector:4317'\nsample = 1\n";
        assert_eq!(config(text).trace.unwrap().sample, 1.0);
    }

    #[test]
    fn each_fault_names_its_key_and_what_was_expected() {
        for (line, expected) in [
            ("sample = 1.5", "trace.sample: expected 0 to 1"),
            ("sample = -0.1", "trace.sample: expected 0 to 1"),
            ("sample = nan", "trace.sample: expected 0 to 1"),
            ("service_name = ' '", "trace.service_name: expected a name"),
            (
                "ca_file = 'x'",
                "trace.ca_file: needs an otlp_endpoint with https://",
            ),
            ("endpoint = 'x'", "trace.endpoint: unknown field"),
        ] {
            let text = format!("[trace]\notlp_endpoint = 'http://127.0.0.1:4317'\n{line}\n");
            assert!(
                faults(&text).contains(expected),
                "{line}: {}",
                faults(&text)
            );
        }
        assert!(faults("[trace]\n").contains("trace: otlp_endpoint: missing"));
    }

    #[test]
    fn an_endpoint_is_a_scheme_a_host_and_a_port_and_is_not_repeated_when_it_is_not() {
        for wrong in [
            "127.0.0.1:4317",
            "grpc://127.0.0.1:4317",
            "http://user:hunter2@collector:4317",
            "http://collector:4317/v1/traces",
            "http://collector:4317?key=hunter2",
        ] {
            let found = faults(&format!("[trace]\notlp_endpoint = '{wrong}'\n"));
            assert!(
                found.contains("trace.otlp_endpoint: expected"),
                "{wrong}: {found}"
            );
            assert!(!found.contains("hunter2"), "{found}");
        }
    }
}
