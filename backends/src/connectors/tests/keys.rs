use std::path::{Path, PathBuf};

use super::*;

fn write(directory: &Path, key: &str) -> PathBuf {
    let path = directory.join("key");
    std::fs::write(&path, key).unwrap();
    path
}

fn with_keys(keys: &[String]) -> Result<Connectors, ConnectorError> {
    let keys = keys.iter().map(|key| key.parse());
    Connectors::new(ConnectorSettings {
        keys: keys.collect::<Result<_, _>>()?,
        ..Default::default()
    })
}

/// A model without a key of its own that asks for one by name.
fn borrowing(url: &str, name: &str) -> Endpoint {
    let mut endpoint = endpoint(url);
    endpoint.api_key = ApiKey::default();
    endpoint.config.parameters = config("", &[("api_key_name", name)]).parameters;
    endpoint
}

#[tokio::test]
async fn a_named_key_is_read_when_it_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "first\n");
    let mut server = good_server().await;
    let entry = format!("main={},file={}", server.origin(), path.display());
    let connectors = with_keys(&[entry]).unwrap();
    let endpoint = borrowing(&server.url(), "main");
    connectors.check_settings(&endpoint.config).unwrap();
    for key in ["first", "second"] {
        write(directory.path(), &format!(" {key} \n"));
        connectors.check(&endpoint, LIMIT).await.unwrap();
        let seen = server.request().await;
        assert_eq!(
            seen.header("authorization"),
            Some(&*format!("Bearer {key}"))
        );
    }
}

#[tokio::test]
async fn a_key_of_the_environment_can_be_named() {
    // Always set where these tests run, and fit to be a header.
    let variable = "CARGO_PKG_NAME";
    let mut server = good_server().await;
    let entry = format!("main={},env={variable}", server.origin());
    let connectors = with_keys(&[entry]).unwrap();
    let endpoint = borrowing(&server.url(), "main");
    connectors.check(&endpoint, LIMIT).await.unwrap();
    let expected = format!("Bearer {}", std::env::var(variable).unwrap());
    assert_eq!(
        server.request().await.header("authorization"),
        Some(&*expected)
    );
}

#[tokio::test]
async fn the_key_of_the_model_goes_before_a_named_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "lent");
    let mut server = good_server().await;
    let entry = format!("main={},file={}", server.origin(), path.display());
    let connectors = with_keys(&[entry]).unwrap();
    let endpoint = Endpoint {
        api_key: ApiKey::new(KEY.to_owned()),
        ..borrowing(&server.url(), "main")
    };
    connectors.check(&endpoint, LIMIT).await.unwrap();
    let seen = server.request().await;
    assert_eq!(
        seen.header("authorization"),
        Some(&*format!("Bearer {KEY}"))
    );
}

#[tokio::test]
async fn a_named_key_goes_to_no_other_origin() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), KEY);
    let server = good_server().await;
    let port = server.address().port();
    let entry = format!("main=https://127.0.0.1:{port},file={}", path.display());
    let connectors = with_keys(&[entry]).unwrap();
    let elsewhere = borrowing(&server.url(), "main");
    let why = format!("parameters.api_key_name: this key is not for http://127.0.0.1:{port}");
    let expected = Err(ConnectorError::Settings(why));
    assert_eq!(connectors.check_settings(&elsewhere.config), expected);
    assert_eq!(connectors.check(&elsewhere, LIMIT).await, expected);
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_name_that_no_key_has_is_refused() {
    let server = good_server().await;
    let endpoint = borrowing(&server.url(), "main");
    let why = "parameters.api_key_name: no key has this name on this server".to_owned();
    let expected = Err(ConnectorError::Settings(why));
    assert_eq!(connectors().check_settings(&endpoint.config), expected);
    assert_eq!(connectors().check(&endpoint, LIMIT).await, expected);
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn where_a_key_is_kept_is_not_told_to_callers() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), KEY);
    let server = good_server().await;
    let entry = format!("main={},file={}", server.origin(), path.display());
    let connectors = with_keys(&[entry]).unwrap();
    std::fs::remove_file(&path).unwrap();
    let error = connectors
        .check(&borrowing(&server.url(), "main"), LIMIT)
        .await;
    let why = "parameters.api_key_name: the key cannot be read at the moment".to_owned();
    assert_eq!(error, Err(ConnectorError::Settings(why)));
}

#[test]
fn a_key_that_cannot_be_read_or_sent_is_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let long = "x".repeat(8193);
    for (content, expected) in [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ("two words", "expected printable ASCII without spaces"),
        ("a\nb", "expected printable ASCII without spaces"),
        ("\u{fc}", "expected printable ASCII without spaces"),
        (long.as_str(), "it has more than 8192 bytes"),
    ] {
        let path = write(directory.path(), content);
        let entry = format!("main=https://host,file={}", path.display());
        let error = with_keys(&[entry]).unwrap_err();
        let why = format!("key main: file {}: {expected}", path.display());
        assert_eq!(error, ConnectorError::Settings(why));
    }
    let unset = "main=https://host,env=NO_SUCH_VARIABLE".to_owned();
    let why = "key main: variable NO_SUCH_VARIABLE: it is not set".to_owned();
    assert_eq!(
        with_keys(&[unset]).err(),
        Some(ConnectorError::Settings(why))
    );
}

#[test]
fn two_keys_of_one_name_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), KEY);
    let entry = |host| format!("main=https://{host},file={}", path.display());
    let error = with_keys(&[entry("a"), entry("b")]).err();
    let why = "keys: two have the same name".to_owned();
    assert_eq!(error, Some(ConnectorError::Settings(why)));
}

#[test]
fn more_than_256_keys_are_refused() {
    let entry = |number| format!("key-{number}=https://host,env=CARGO_PKG_NAME");
    let keys: Vec<_> = (0..257).map(entry).collect();
    with_keys(&keys[..256]).unwrap();
    let why = "keys: 257, expected at most 256".to_owned();
    assert_eq!(with_keys(&keys).err(), Some(ConnectorError::Settings(why)));
}

#[test]
fn a_malformed_entry_is_refused_and_not_repeated() {
    for entry in [
        "",
        KEY,
        "main",
        "main=sk-0123456789",
        "main=https://host",
        "main=https://host,sk-0123456789",
        "main=https://host,key=sk-0123456789",
        "main=https://host,file=",
        "main=https://host,env=",
        "main=sk-0123456789,env=KEY",
        "main=https://host/v1,env=KEY",
        "sk 0123456789=https://host,env=KEY",
        "=https://host,env=KEY",
    ] {
        let error = entry.parse::<NamedKey>().unwrap_err();
        assert!(!error.to_string().contains("0123"), "{entry}: {error}");
        assert!(error.to_string().contains("expected"), "{entry}: {error}");
    }
}

#[test]
fn a_path_may_hold_commas_and_equals_signs() {
    let key: NamedKey = "main=http://host:8080,file=/a,b=c".parse().unwrap();
    assert!(format!("{key:?}").contains("/a,b=c"), "{key:?}");
}
