//! With real tokens, real keys and a clock that the tests turn.

use futures_util::FutureExt as _;
use intellirouter::security::{IdentityVerifier, JwtAuthenticator, JwtConfig};
use tempfile::TempDir;
use tonic::Code;

use super::*;
use crate::Config;
use crate::gateway::StartError;
use crate::test_util::{authenticate, bearer, config, files, token_for};

/// The step's answer, which must be there at once: whose key is known does not
/// wait.
fn check(
    step: &Authenticate,
    headers: &HeaderMap,
    now: SystemTime,
) -> Result<Arc<Identity>, Reply> {
    let check = step.check(headers, now).now_or_never();
    check.expect("an answer without waiting")
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn authorization(values: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(AUTHORIZATION, HeaderValue::try_from(*value).unwrap());
    }
    headers
}

#[test]
fn a_remembered_token_is_refused_from_its_end_on() {
    let step = authenticate(&[]);
    let headers = bearer(&token_for("alice", &["user"], 100));
    let now = SystemTime::now();
    assert_eq!(check(&step, &headers, now).unwrap().subject(), "alice");
    assert_eq!(
        check(&step, &headers, now + secs(98)).unwrap().roles(),
        ["user"]
    );
    let reply = check(&step, &headers, now + secs(101)).unwrap_err();
    assert_eq!(
        (reply.code, &*reply.message),
        (Code::Unauthenticated, "the token has expired")
    );
}

#[test]
fn a_known_token_is_looked_up_and_not_verified_again() {
    let step = authenticate(&[]);
    let headers = bearer(&token_for("alice", &["user"], 100));
    let now = SystemTime::now();
    let first = check(&step, &headers, now).unwrap();
    assert!(Arc::ptr_eq(&first, &check(&step, &headers, now).unwrap()));
}

#[test]
fn the_scheme_may_have_any_case() {
    let (step, token) = (authenticate(&[]), token_for("alice", &[], 100));
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        let headers = authorization(&[&format!("{scheme} {token}")]);
        assert!(
            check(&step, &headers, SystemTime::now()).is_ok(),
            "{scheme}"
        );
    }
}

#[test]
fn two_authorization_headers_are_refused_though_both_are_good() {
    let value = format!("Bearer {}", token_for("alice", &[], 100));
    let headers = authorization(&[&value, &value]);
    let reply = check(&authenticate(&[]), &headers, SystemTime::now()).unwrap_err();
    assert_eq!(
        (reply.code, reply.label),
        (Code::Unauthenticated, "bad_token")
    );
}

#[test]
fn a_header_that_is_no_bearer_token_is_refused_and_not_repeated() {
    let token = token_for("alice", &[], 100);
    for value in [
        "Basic aHVudGVy",
        "Bearer",
        "Bearer ",
        "Bearer hunter2",
        &token,
        &format!("Bearer{token}"),
    ] {
        let reply = check(
            &authenticate(&[]),
            &authorization(&[value]),
            SystemTime::now(),
        )
        .unwrap_err();
        assert_eq!(reply.code, Code::Unauthenticated, "{value}");
        assert!(!reply.message.contains("hunter") && !reply.message.contains(&token));
    }
    let reply = check(&authenticate(&[]), &HeaderMap::new(), SystemTime::now()).unwrap_err();
    assert_eq!(reply.label, "no_token");
}

#[test]
fn a_backend_can_verify_who_calls() {
    let step = authenticate(&["memory", "rag"]);
    let now = SystemTime::now();
    let caller = check(
        &step,
        &bearer(&token_for("alice", &["user", "ops"], 100)),
        now,
    )
    .unwrap();
    let header = step.identity_header(&caller, 1, now).unwrap();
    let pem = std::fs::read(&files().identity_public).unwrap();
    let verifier = |audience| {
        IdentityVerifier::from_public_pem(&pem, "intellirouter-gateway", audience).unwrap()
    };
    let claims = verifier("rag").verify(header.to_str().unwrap()).unwrap();
    assert_eq!(
        (claims.sub.as_str(), claims.roles),
        ("alice", vec!["user".to_owned(), "ops".into()])
    );
    assert!(claims.exp - claims.iat <= 60);
    assert!(
        verifier("memory").verify(header.to_str().unwrap()).is_err(),
        "made for another backend"
    );
}

#[test]
fn an_identity_is_signed_once_per_caller_and_upstream_and_anew_in_its_last_third() {
    let step = authenticate(&["memory", "rag"]);
    let now = SystemTime::now();
    let caller =
        |seconds| check(&step, &bearer(&token_for("alice", &["user"], seconds)), now).unwrap();
    let (one, other_token) = (caller(100), caller(200));
    // ES256 signatures differ each time, so equal headers are the same one.
    let first = step.identity_header(&one, 0, now).unwrap();
    assert_eq!(
        step.identity_header(&other_token, 0, now + secs(39))
            .unwrap(),
        first
    );
    assert_ne!(step.identity_header(&one, 1, now).unwrap(), first);
    let renewed = step.identity_header(&one, 0, now + secs(41)).unwrap();
    assert_ne!(renewed, first);
    assert_eq!(
        step.identity_header(&one, 0, now + secs(80)).unwrap(),
        renewed
    );
}

#[test]
fn callers_that_differ_in_roles_never_share_an_identity() {
    let step = authenticate(&["memory"]);
    let now = SystemTime::now();
    let header = |roles: &[&str]| {
        let caller = check(&step, &bearer(&token_for("alice", roles, 100)), now).unwrap();
        step.identity_header(&caller, 0, now).unwrap()
    };
    assert_ne!(header(&["user"]), header(&["user", "ops"]));
}

#[test]
fn an_upstream_that_does_not_exist_gets_no_identity() {
    let step = authenticate(&[]);
    let now = SystemTime::now();
    let caller = check(&step, &bearer(&token_for("alice", &[], 100)), now).unwrap();
    assert_eq!(
        step.identity_header(&caller, 0, now).unwrap_err().code,
        Code::Internal
    );
}

/// A folder with what a configuration of two issuers names.
struct Folder(TempDir);

const SECRET_A: &str = "secret-of-issuer-a-0123456789abcdef";
const SECRET_B: &str = "secret-of-issuer-b-0123456789abcdef";

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("a.secret", SECRET_A);
        folder.write("b.secret", SECRET_B);
        folder.write(
            "identity.key",
            &std::fs::read_to_string(&files().identity_key).unwrap(),
        );
        folder
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    fn config(&self, auth: &str, upstream: &str) -> Config {
        for name in ["gateway.crt", "gateway.key"] {
            self.write(name, "");
        }
        let text = format!(
            "[listen]\ncert_file = 'gateway.crt'\nkey_file = 'gateway.key'\n\
             [identity]\nkey_file = 'identity.key'\n[auth]\n{auth}\n\
             [[upstreams]]\nname = '{upstream}'\nendpoints = ['http://127.0.0.1:1']\n"
        );
        Config::parse(&text, "test.toml", self.0.path()).unwrap_or_else(|faults| panic!("{faults}"))
    }
}

fn issuer(name: &str, keys: &str) -> String {
    format!("[[auth.issuers]]\nissuer = '{name}'\naudience = 'us'\n{keys}\n")
}

fn secret(file: &str) -> String {
    format!("keys = [{{ algorithm = 'HS256', secret_file = '{file}' }}]")
}

fn two() -> String {
    issuer("a", &secret("a.secret")) + &issuer("b", &secret("b.secret"))
}

fn token_of(issuer: &str, secret: &str, subject: &str) -> HeaderMap {
    let jwt = JwtAuthenticator::new(JwtConfig {
        secret: secret.to_owned(),
        issuer: issuer.to_owned(),
        audience: "us".to_owned(),
        expiration_seconds: 60,
    });
    bearer(&jwt.generate_token(subject, vec!["user".into()]).unwrap())
}

#[test]
fn the_same_name_from_two_issuers_is_two_callers_also_for_a_backend() {
    let folder = Folder::new();
    let step = build(&folder.config(&two(), "memory"), None);
    let now = SystemTime::now();
    let a = check(&step, &token_of("a", SECRET_A, "alice"), now).unwrap();
    let b = check(&step, &token_of("b", SECRET_B, "alice"), now).unwrap();
    assert_eq!((a.issuer(), b.issuer()), ("a", "b"));
    assert_eq!((a.subject(), a.roles()), (b.subject(), b.roles()));
    let pem = std::fs::read(&files().identity_public).unwrap();
    let verifier =
        IdentityVerifier::from_public_pem(&pem, "intellirouter-gateway", "memory").unwrap();
    for (caller, origin) in [(a, "a"), (b, "b")] {
        let header = step.identity_header(&caller, 0, now).unwrap();
        let (claims, found) = verifier
            .verify_with_origin(header.to_str().unwrap())
            .unwrap();
        assert_eq!(
            (claims.sub.as_str(), found.as_deref()),
            ("alice", Some(origin))
        );
    }
}

#[test]
fn a_token_of_one_issuer_that_another_ones_key_signed_is_refused() {
    let folder = Folder::new();
    let step = build(&folder.config(&two(), "memory"), None);
    let forged = token_of("a", SECRET_B, "alice");
    let reply = check(&step, &forged, SystemTime::now()).unwrap_err();
    assert_eq!(
        (reply.code, reply.label),
        (Code::Unauthenticated, "signature")
    );
    let stranger = token_of("c", SECRET_A, "alice");
    let reply = check(&step, &stranger, SystemTime::now()).unwrap_err();
    assert_eq!((reply.code, reply.label), (Code::Unauthenticated, "issuer"));
}

#[test]
fn with_one_issuer_a_backend_is_told_no_origin_except_of_certificates() {
    let step = authenticate(&["memory"]);
    let now = SystemTime::now();
    let pem = std::fs::read(&files().identity_public).unwrap();
    let verifier =
        IdentityVerifier::from_public_pem(&pem, "intellirouter-gateway", "memory").unwrap();
    let origin = |caller: &Identity| {
        let header = step.identity_header(caller, 0, now).unwrap();
        verifier
            .verify_with_origin(header.to_str().unwrap())
            .unwrap()
            .1
    };
    let by_token = check(&step, &bearer(&token_for("alice", &["user"], 100)), now).unwrap();
    let by_certificate = step.by_certificate("alice", &["user".to_owned()], 7, u64::MAX);
    assert_eq!(origin(&by_token), None);
    assert_eq!(origin(&by_certificate).as_deref(), Some(CERTIFICATE_ISSUER));
    assert_eq!(by_certificate.issuer(), CERTIFICATE_ISSUER);
    assert_eq!(
        (by_certificate.issued_at(), by_certificate.token_id()),
        (Some(7), None)
    );
}

#[test]
fn an_identity_by_certificate_ends_with_it() {
    let step = authenticate(&[]);
    let identity = step.by_certificate("alice", &[], 0, 1000);
    let at = |seconds| UNIX_EPOCH + secs(seconds);
    assert_eq!(step.standing(&identity, at(999)), Standing::Current);
    assert_eq!(step.standing(&identity, at(1000)), Standing::Expired);
}

#[test]
fn an_identity_knows_when_and_as_what_its_token_was_issued() {
    let step = authenticate(&[]);
    let before = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let now = SystemTime::now();
    let identity = check(&step, &bearer(&token_for("alice", &[], 100)), now).unwrap();
    let issued_at = identity.issued_at().unwrap();
    assert!((before..=before + 5).contains(&issued_at));
    assert_eq!(
        (identity.issuer(), identity.token_id()),
        ("intellirouter", None)
    );
}

#[test]
fn a_build_without_a_change_is_the_step_before_with_all_that_it_remembers() {
    let folder = Folder::new();
    let config = folder.config(&two(), "memory");
    let first = build(&config, None);
    assert!(Arc::ptr_eq(&first, &build(&config, Some(&first))));
    assert!(Arc::ptr_eq(
        &first,
        &build(&folder.config(&two(), "memory"), Some(&first))
    ));
    // What an identity token is made of counts too, and what the files hold.
    assert!(!Arc::ptr_eq(
        &first,
        &build(&folder.config(&two(), "rag"), Some(&first))
    ));
    folder.write("b.secret", "another-secret-of-issuer-b-0123456789");
    assert!(!Arc::ptr_eq(&first, &build(&config, Some(&first))));
}

#[test]
fn after_a_change_open_calls_end_whose_key_or_issuer_is_gone_and_others_go_on() {
    let folder = Folder::new();
    let now = SystemTime::now();
    let first = build(&folder.config(&two(), "memory"), None);
    let a = check(&first, &token_of("a", SECRET_A, "alice"), now).unwrap();
    let b = check(&first, &token_of("b", SECRET_B, "bob"), now).unwrap();
    assert_eq!(first.standing(&a, now), Standing::Current);
    assert_eq!(first.standing(&b, now), Standing::Current);

    folder.write("b.secret", "another-secret-of-issuer-b-0123456789");
    let second = build(&folder.config(&two(), "memory"), Some(&first));
    assert_eq!(second.standing(&a, now), Standing::Current);
    assert_eq!(second.standing(&b, now), Standing::KeyGone);
    assert_eq!(
        first.standing(&b, now),
        Standing::Current,
        "the step before is not misled by it"
    );
    let refused = check(&second, &token_of("b", SECRET_B, "bob"), now).unwrap_err();
    assert_eq!(refused.label, "signature");

    let only_b = issuer("b", &secret("b.secret"));
    let third = build(&folder.config(&only_b, "memory"), Some(&second));
    assert_eq!(third.standing(&a, now), Standing::KeyGone);
    assert_eq!(third.standing(&a, now + secs(3600)), Standing::KeyGone);
    assert_eq!(second.standing(&a, now + secs(3600)), Standing::Expired);
}

#[test]
fn a_key_that_gets_a_name_or_moves_to_another_file_ends_no_open_call() {
    let folder = Folder::new();
    let now = SystemTime::now();
    let first = build(&folder.config(&two(), "memory"), None);
    let caller = check(&first, &token_of("a", SECRET_A, "alice"), now).unwrap();
    folder.write("moved.secret", SECRET_A);
    let k = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, SECRET_A);
    let set = format!(r#"{{"keys":[{{"kty":"oct","k":"{k}","alg":"HS256","kid":"1"}}]}}"#);
    folder.write("a.jwks", &set);
    for keys in [
        "keys = [{ algorithm = 'HS256', secret_file = 'a.secret', kid = '1' }]",
        "keys = [{ algorithm = 'HS256', secret_file = 'moved.secret' }]",
        "algorithms = ['HS256']\njwks_file = 'a.jwks'",
    ] {
        let step = build(&folder.config(&issuer("a", keys), "memory"), Some(&first));
        assert_eq!(step.standing(&caller, now), Standing::Current, "{keys}");
    }
}

#[test]
fn open_calls_end_when_their_issuers_rules_ask_more_or_grant_less() {
    let folder = Folder::new();
    let now = SystemTime::now();
    let first = build(&folder.config(&two(), "memory"), None);
    let caller = check(&first, &token_of("a", SECRET_A, "alice"), now).unwrap();
    for (rule, expected) in [
        ("leeway = '9s'", Standing::Current),
        ("required_claims = { tenant = '*' }", Standing::RulesChanged),
        ("roles_claim = 'scope'", Standing::RulesChanged),
        ("allowed_roles = ['partner']", Standing::RulesChanged),
    ] {
        let rules = issuer("a", &format!("{}\n{rule}", secret("a.secret")));
        let step = build(&folder.config(&rules, "memory"), Some(&first));
        assert_eq!(step.standing(&caller, now), expected, "{rule}");
        assert_eq!(first.standing(&caller, now), Standing::Current);
    }
}

#[test]
fn an_issuer_that_may_not_give_a_role_gives_its_callers_none_of_it() {
    let folder = Folder::new();
    let rules = secret("a.secret") + "\nallowed_roles = ['partner']";
    let auth = issuer("a", &rules) + &issuer("b", &secret("b.secret"));
    let step = build(&folder.config(&auth, "memory"), None);
    let now = SystemTime::now();
    let a = check(&step, &token_of("a", SECRET_A, "alice"), now).unwrap();
    let b = check(&step, &token_of("b", SECRET_B, "alice"), now).unwrap();
    assert_eq!(a.roles(), [""; 0]);
    assert_eq!(b.roles(), ["user"]);
}

#[tokio::test]
async fn fetched_keys_are_taken_over_while_their_settings_stay_whatever_else_changes() {
    let folder = Folder::new();
    // Nobody listens there: what counts is who goes on asking.
    let jwks = |more: &str| {
        issuer(
            "c",
            &format!("jwks_url = 'http://127.0.0.1:1/jwks'\n{more}"),
        )
    };
    let source = |step: &Authenticate, name| step.issuers.get(name)?.fetched().cloned();
    let config = folder.config(&(two() + &jwks("")), "memory");
    let first = build(&config, None);
    let fetched = source(&first, "c").unwrap();

    let config = folder.config(
        &(issuer("a", &secret("b.secret")) + &jwks("leeway = '9s'")),
        "rag",
    );
    let second = build(&config, Some(&first));
    assert!(!Arc::ptr_eq(&first, &second));
    assert!(Arc::ptr_eq(&fetched, &source(&second, "c").unwrap()));

    let config = folder.config(&jwks("jwks_refresh = '9m'"), "rag");
    let third = build(&config, Some(&second));
    assert!(!Arc::ptr_eq(&fetched, &source(&third, "c").unwrap()));
    // Nothing but this test holds it: with the last hold the fetching ends.
    drop((first, second));
    assert_eq!(Arc::strong_count(&fetched), 1);
}

#[test]
fn a_key_set_file_gives_keys_and_one_without_a_usable_key_is_a_fault() {
    let folder = Folder::new();
    let auth = issuer("a", "algorithms = ['HS256']\njwks_file = 'a.jwks'");
    folder.write("a.jwks", "{}");
    let k = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, SECRET_A);
    let jwk = |alg: &str| format!(r#"{{"keys":[{{"kty":"oct","k":"{k}","alg":"{alg}"}}]}}"#);
    for (text, expected) in [
        ("{}".to_owned(), "JWK set"),
        (jwk("HS512"), "expected a usable key"),
    ] {
        folder.write("a.jwks", &text);
        let config = folder.config(&auth, "memory");
        let faults = Authenticate::faults(&config);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].0, "auth.issuers[0].jwks_file");
        assert!(
            faults[0].1.contains(expected) && !faults[0].1.contains(&k),
            "{faults:?}"
        );
        assert!(matches!(
            Authenticate::build(&config, None, &OpenCalls::new(1)),
            Err(StartError::Setting { key, .. }) if key == "auth.issuers[0].jwks_file"
        ));
    }
    folder.write("a.jwks", &jwk("HS256"));
    let step = build(&folder.config(&auth, "memory"), None);
    let now = SystemTime::now();
    assert!(check(&step, &token_of("a", SECRET_A, "alice"), now).is_ok());
}

#[test]
fn the_faults_of_all_files_are_found_at_once() {
    let folder = Folder::new();
    folder.write("a.secret", " ");
    folder.write("b.secret", "short");
    folder.write("identity.key", "rubbish");
    folder.write("ca.crt", &"x".repeat(1024 * 1024 + 1));
    let url = "jwks_url = 'https://c.example/'\njwks_ca_file = 'ca.crt'";
    let faults = Authenticate::faults(&folder.config(&(two() + &issuer("c", url)), "memory"));
    let keys: Vec<_> = faults.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "auth.issuers[0].keys[0]",
            "auth.issuers[1].keys[0]",
            "auth.issuers[2].jwks_ca_file",
            "identity.key_file"
        ]
    );
}

#[tokio::test]
async fn operators_see_each_issuer_and_readiness_needs_one_with_a_key() {
    let folder = Folder::new();
    let url = issuer(
        "https://c.example",
        "jwks_url = 'http://127.0.0.1:1/jwks?key=hunter2'",
    );
    let step = build(&folder.config(&url, "memory"), None);
    let token = token_of("https://c.example", SECRET_A, "alice");
    let reply = step.check(&token, SystemTime::now()).await.unwrap_err();
    assert_eq!(
        (reply.code, reply.label),
        (Code::Unauthenticated, "keys_unavailable")
    );
    let statuses = step.statuses();
    assert!(!status::any_usable(&statuses));
    let lines = status::lines(&statuses);
    assert!(
        lines.starts_with("issuer https://c.example: 0 keys, never fetched; "),
        "{lines}"
    );
    assert!(
        lines.contains("refused") && !lines.contains("hunter2"),
        "{lines}"
    );
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &status::metrics(&statuses)).unwrap();
    for line in [
        "intellirouter_jwks_keys{issuer=\"https://c.example\"} 0",
        "intellirouter_jwks_fetches_total{issuer=\"https://c.example\",result=\"error\"} 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }

    let both = build(&folder.config(&(url + &two()), "memory"), None);
    assert!(status::any_usable(&both.statuses()));
}

#[test]
fn the_short_form_is_one_issuer_with_its_defaults() {
    let step = build(&config(""), None);
    let names: Vec<_> = step.issuers.iter().map(|issuer| issuer.name()).collect();
    assert_eq!(names, ["intellirouter"]);
}

fn build(config: &Config, previous: Option<&Arc<Authenticate>>) -> Arc<Authenticate> {
    Authenticate::build(config, previous, &OpenCalls::new(1)).unwrap()
}
