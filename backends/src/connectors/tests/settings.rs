use super::*;

fn fault(connectors: &Connectors, config: &ConnectorConfig) -> String {
    match connectors.check_settings(config) {
        Err(ConnectorError::Settings(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_named_connector_exists() {
    let connectors = connectors();
    for name in Connectors::NAMES {
        let config = ConnectorConfig {
            endpoint_url: "https://host/v1".to_owned(),
            ..config(name, &[])
        };
        connectors.check_settings(&config).unwrap();
    }
}

#[tokio::test]
async fn a_type_that_does_not_exist_is_refused() {
    let connectors = connectors();
    let config = config("carrier-pigeon", &[]);
    let why = "type: expected one of local, openai";
    assert_eq!(fault(&connectors, &config), why);
    let endpoint = Endpoint {
        config,
        ..endpoint("http://host/v1")
    };
    let error = connectors.complete(&endpoint, &request("hi"), LIMIT).await;
    assert_eq!(error, Err(ConnectorError::Settings(why.to_owned())));
}

#[test]
fn a_url_that_cannot_be_called_is_refused_by_the_name_of_its_field() {
    let connectors = connectors();
    for url in [
        "",
        "host",
        "/v1",
        "ftp://host/v1",
        "https://",
        "https://user:pw@host/v1",
        "https://host:x/",
    ] {
        let config = endpoint(url).config;
        assert!(
            fault(&connectors, &config).starts_with("endpoint_url: expected"),
            "{url}"
        );
    }
}

#[test]
fn a_url_that_can_be_called_is_taken() {
    let connectors = connectors();
    for url in [
        "http://host",
        "https://host/",
        "https://host:1/a/b?c=d",
        "http://[::1]:8080/v1",
    ] {
        let config = endpoint(url).config;
        connectors.check_settings(&config).unwrap();
    }
}

#[test]
fn an_organization_that_no_header_can_hold_is_refused() {
    let connectors = connectors();
    let mut config = endpoint("http://host/v1").config;
    config.org_id = "a\r\nb".to_owned();
    assert_eq!(
        fault(&connectors, &config),
        "org_id: expected printable ASCII"
    );
}

#[tokio::test]
async fn a_key_that_no_header_can_hold_is_refused_and_not_repeated() {
    let server = good_server().await;
    let endpoint = Endpoint {
        api_key: ApiKey::new("a\r\nb".to_owned()),
        ..endpoint(&server.url())
    };
    let error = connectors().check(&endpoint, LIMIT).await;
    let why = "api_key: expected printable ASCII".to_owned();
    assert_eq!(error, Err(ConnectorError::Settings(why)));
}

#[test]
fn parameters_that_a_connector_does_not_know_are_left_alone() {
    let config = config("local", &[("colour", "blue")]);
    connectors().check_settings(&config).unwrap();
}

#[test]
fn a_delay_that_is_no_number_in_range_is_refused() {
    let connectors = connectors();
    for delay in ["", "-1", "10001", "1.5", "long"] {
        let config = config("local", &[("delay_ms_per_token", delay)]);
        assert_eq!(
            fault(&connectors, &config),
            "parameters.delay_ms_per_token: expected 0 to 10000"
        );
    }
}

#[test]
fn a_ca_file_that_is_missing_or_none_is_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.crt");
    let fault = || {
        let extra_ca = Some(path.clone());
        let settings = ConnectorSettings {
            extra_ca,
            ..Default::default()
        };
        Connectors::new(settings).unwrap_err().to_string()
    };
    assert!(fault().contains("extra_ca: "), "{}", fault());
    std::fs::write(&path, "nothing").unwrap();
    assert!(
        fault().ends_with("expected at least one PEM certificate"),
        "{}",
        fault()
    );
    std::fs::write(&path, " ".repeat(1024 * 1024 + 1)).unwrap();
    assert!(
        fault().ends_with("it has more than 1048576 bytes"),
        "{}",
        fault()
    );
}
