//! Debug output for the messages that hold secrets, so that no log line can show one.
//!
//! Owns only the text form. On the wire such a message is complete; whoever returns it to a caller
//! clears the secret first.

use std::fmt;

use crate::intellirouter::model_registry::v1::ConnectorConfig;

impl fmt::Debug for ConnectorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Taken apart by name, so that a new field can't be forgotten here.
        let Self {
            r#type,
            endpoint_url,
            api_key,
            org_id,
            timeout_ms,
            max_retries,
            parameters,
        } = self;
        // Some providers take the key in the query, or before the host.
        let endpoint_is_set = !endpoint_url.is_empty();
        f.debug_struct("ConnectorConfig")
            .field("type", r#type)
            .field("endpoint_is_set", &endpoint_is_set)
            .field("api_key_is_set", &!api_key.is_empty())
            .field("org_id", org_id)
            .field("timeout_ms", timeout_ms)
            .field("max_retries", max_retries)
            .field("parameter_names", &parameters.keys())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_never_shows_a_connector_secret() {
        let config = ConnectorConfig {
            endpoint_url: "https://u:hush-1@models.example/?key=hush-2".into(),
            api_key: "hush-3".into(),
            parameters: [("header".to_owned(), "hush-4".to_owned())].into(),
            ..Default::default()
        };
        let text = format!("{config:?}");
        assert!(!text.contains("hush"), "{text}");
        assert!(
            text.contains("api_key_is_set: true") && text.contains("header"),
            "{text}"
        );
    }
}
