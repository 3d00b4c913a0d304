use std::path::Path;

use super::*;
use crate::config::{Config, ConfigFaults};
use crate::test_util::files;

fn parse(auth: &str) -> Result<AuthConfig, ConfigFaults> {
    let text = format!(
        "[listen]\ncert_file = 'gateway.crt'\nkey_file = 'gateway.key'\n\
         [identity]\nkey_file = 'identity.key'\n{auth}"
    );
    let base: &Path = files().jwt_secret.parent().unwrap();
    Config::parse(&text, "test.toml", base).map(|config| config.auth)
}

fn issuer(keys: &str) -> String {
    format!("[[auth.issuers]]\nissuer = 'a'\naudience = 'us'\n{keys}\n")
}

const KEYS: &str = "keys = [{ algorithm = 'HS256', secret_file = 'jwt.secret' }]";
const SHORT: &str = "[[auth.keys]]\nalgorithm = 'HS256'\nsecret_file = 'jwt.secret'\n";

/// The keys and messages of all faults.
fn faults(auth: &str) -> Vec<(String, String)> {
    let faults = parse(auth).expect_err(auth).faults;
    faults
        .into_iter()
        .map(|one| (one.key, one.message))
        .collect()
}

#[test]
fn the_short_form_means_one_issuer() {
    let auth = parse(SHORT).unwrap();
    let [only] = &auth.issuers[..] else {
        panic!("{auth:?}")
    };
    assert_eq!(
        (only.at.as_str(), only.issuer.as_str()),
        ("auth", "intellirouter")
    );
    assert_eq!(only.audiences, ["intellirouter-services"]);
    assert_eq!(only.roles_claim, ClaimPath::default());
    assert_eq!(
        (only.leeway, &only.algorithms, &only.jwks),
        (Duration::ZERO, &None, &None)
    );
}

#[test]
fn both_forms_together_are_so_many_issuers() {
    let names = |text: &str| -> Vec<String> {
        let issuers = parse(text).unwrap().issuers;
        issuers.into_iter().map(|one| one.issuer).collect()
    };
    assert_eq!(
        names(&format!("{SHORT}{}", issuer(KEYS))),
        ["intellirouter", "a"]
    );
    assert_eq!(
        names(&issuer(KEYS)),
        ["a"],
        "without the short form it is not assumed"
    );
}

#[test]
fn every_key_of_an_issuer_is_read() {
    let unknown = parse(&issuer(&format!("{KEYS}\njwks = 'x'")));
    assert!(unknown.is_err(), "unknown keys are refused");
    let auth = parse(
        "[[auth.issuers]]\nissuer = 'https://a.example'\naudience = ['us', 'them']\n\
         algorithms = ['RS256', 'ES512']\nleeway = '30s'\nroles_claim = '/realm_access/roles'\n\
         required_claims = { email_verified = true, tenant = '*', '/a/b' = 'x', level = 3, \
         score = 0.5 }\nallowed_roles = ['user', 'partner']\n\
         jwks_url = 'https://a.example/jwks?x=hunter2'\njwks_ca_file = 'ca.crt'\n\
         jwks_refresh = '10m'\njwks_cooldown = '5s'\njwks_timeout = '3s'\njwks_stale = '2h'\n",
    );
    let issuer = auth.unwrap().issuers.remove(0);
    assert_eq!(issuer.audiences, ["us", "them"]);
    assert_eq!(
        issuer.algorithms,
        Some(vec![Algorithm::Rs256, Algorithm::Es512])
    );
    assert_eq!(issuer.leeway, Duration::from_secs(30));
    assert_eq!(issuer.roles_claim, ClaimPath::new("/realm_access/roles"));
    let expected = [
        ("/a/b", Expected::Text("x".into())),
        ("email_verified", Expected::Flag(true)),
        ("level", Expected::Integer(3)),
        ("score", Expected::Number(0.5)),
        ("tenant", Expected::Any),
    ];
    let expected = expected.map(|(path, value)| (ClaimPath::new(path), value));
    assert_eq!(issuer.required_claims, expected);
    let allowed = ["user", "partner"].map(str::to_owned);
    assert_eq!(issuer.allowed_roles.as_deref(), Some(&allowed[..]));
    assert!(!format!("{issuer:?}").contains("hunter2"));
    let jwks = issuer.jwks.unwrap();
    let seconds = [jwks.refresh, jwks.cooldown, jwks.timeout, jwks.stale].map(|d| d.as_secs());
    assert_eq!(seconds, [600, 5, 3, 7200]);
    assert!(jwks.ca_file.unwrap().ends_with("ca.crt"));
}

#[test]
fn a_url_alone_has_the_documented_defaults() {
    let auth = parse(&issuer("jwks_url = 'https://a.example/jwks'")).unwrap();
    let jwks = auth.issuers[0].jwks.as_ref().unwrap();
    let seconds = [jwks.refresh, jwks.cooldown, jwks.timeout, jwks.stale].map(|d| d.as_secs());
    assert_eq!(seconds, [300, 10, 2, 86_400]);
    assert_eq!(jwks.ca_file, None);
}

#[test]
fn each_fault_names_its_key_and_what_was_expected() {
    let url = "jwks_url = 'https://a.example/jwks'\n";
    let table = [
        (
            issuer(""),
            "auth.issuers[0]",
            "expected keys, jwks_file or jwks_url",
        ),
        (
            format!("[auth]\nissuer = 'x'\n{}", issuer(KEYS)),
            "auth.keys",
            "missing",
        ),
        (
            format!("[[auth.issuers]]\naudience = 'us'\n{KEYS}"),
            "auth.issuers[0].issuer",
            "`iss`",
        ),
        (
            format!("[[auth.issuers]]\nissuer = 'a'\n{KEYS}"),
            "auth.issuers[0].audience",
            "`aud`",
        ),
        (
            format!("[[auth.issuers]]\nissuer = 'a'\naudience = []\n{KEYS}"),
            "auth.issuers[0].audience",
            "1 to 32",
        ),
        (
            format!("[[auth.issuers]]\nissuer = 'a'\naudience = 7\n{KEYS}"),
            "auth.issuers[0].audience",
            "expected a string or an array of strings",
        ),
        (
            format!("[[auth.issuers]]\nissuer = '{CERTIFICATE_ISSUER}'\naudience = 'us'\n{KEYS}"),
            "auth.issuers[0].issuer",
            CERTIFICATE_ISSUER,
        ),
        (
            issuer(KEYS).repeat(2),
            "auth.issuers[1].issuer",
            "\"a\" is auth.issuers[0] already",
        ),
        (
            format!("{SHORT}{}", issuer(KEYS).replace("'a'", "'intellirouter'")),
            "auth.issuers[0].issuer",
            "\"intellirouter\" is auth already",
        ),
        (
            issuer(&format!("{KEYS}\nalgorithms = []")),
            "auth.issuers[0].algorithms",
            "empty",
        ),
        (
            issuer(&format!("{KEYS}\nalgorithms = ['HS256', 'none']")),
            "auth.issuers[0].algorithms[1]",
            "expected one of HS256",
        ),
        (
            issuer(&format!("{KEYS}\nalgorithms = ['HS512']")),
            "auth.issuers[0].keys[0].algorithm",
            "HS256 is not in algorithms",
        ),
        (
            issuer(&format!("{KEYS}\nleeway = '6m'")),
            "auth.issuers[0].leeway",
            "0s to 300s",
        ),
        (
            issuer(&format!("{KEYS}\nroles_claim = ''")),
            "auth.issuers[0].roles_claim",
            "pointer",
        ),
        (
            issuer(&format!("{KEYS}\nallowed_roles = ['user', '']")),
            "auth.issuers[0].allowed_roles[1]",
            "1 to 256 bytes",
        ),
        (
            issuer(&format!("{KEYS}\nallowed_roles = ['*']")),
            "auth.issuers[0].allowed_roles[0]",
            "leave the list out",
        ),
        (
            issuer(&format!("{KEYS}\nallowed_roles = {:?}", vec!["r"; 257])),
            "auth.issuers[0].allowed_roles",
            "at most 256, found 257",
        ),
        (
            issuer(&format!("{KEYS}\nrequired_claims = {{ a = [] }}")),
            "auth.issuers[0].required_claims.a",
            "expected a string, true or false, or a number",
        ),
        (
            issuer(&KEYS.replace("HS256", "ES256")),
            "auth.issuers[0].keys[0]",
            "ES256 needs public_key_file",
        ),
        (
            issuer(&KEYS.replace("algorithm", "kid = '', algorithm")),
            "auth.issuers[0].keys[0].kid",
            "empty",
        ),
        (
            issuer(&format!("{KEYS}\njwks_stale = '1h'")),
            "auth.issuers[0].jwks_stale",
            "without jwks_url",
        ),
        (
            issuer("jwks_url = 'http://a.example/jwks?key=hunter2'"),
            "auth.issuers[0].jwks_url",
            "http:// is for this machine only",
        ),
        (
            issuer("jwks_url = 'https://user:hunter2@a.example/jwks'"),
            "auth.issuers[0].jwks_url",
            "no user info",
        ),
        (
            issuer(&format!("{url}jwks_timeout = '11s'")),
            "auth.issuers[0].jwks_timeout",
            "1s to 10s",
        ),
        (
            issuer(&format!("{url}jwks_refresh = '2h'\njwks_stale = '1h'")),
            "auth.issuers[0].jwks_stale",
            "at least jwks_refresh",
        ),
        (
            issuer("jwks_file = 'missing'"),
            "auth.issuers[0].jwks_file",
            "No such file",
        ),
    ];
    for (text, key, message) in table {
        let found = faults(&text);
        let named = found.iter().find(|(found, _)| found == key);
        let (_, said) = named.unwrap_or_else(|| panic!("{key}: {found:?}"));
        assert!(said.contains(message), "{key}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
        assert!(found.iter().all(|(found, _)| found == key), "{found:?}");
    }
}

#[test]
fn issuers_keys_and_claims_are_bounded_in_number() {
    let many: String = (0..33)
        .map(|i| issuer(KEYS).replace("'a'", &format!("'a{i}'")))
        .collect();
    assert_eq!(faults(&many)[0].0, "auth.issuers");
    let key = "{ algorithm = 'HS256', secret_file = 'jwt.secret' },";
    let keys = issuer(&format!("keys = [{}]", key.repeat(33)));
    assert_eq!(faults(&keys)[0].0, "auth.issuers[0].keys");
    let claims: String = (0..33).map(|i| format!("c{i} = '*',")).collect();
    let claims = issuer(&format!("{KEYS}\nrequired_claims = {{ {claims} }}"));
    assert_eq!(faults(&claims)[0].0, "auth.issuers[0].required_claims");
}
