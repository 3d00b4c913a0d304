//! What an issuer's tokens must say: the claims that are asked for, and where the roles stand.
//!
//! A claim is named by its top-level name (`roles`, `https://example.com/roles`) or, when the name
//! begins with a slash, by a JSON pointer (RFC 6901: `/realm_access/roles`).

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{KeyError, MAX_LEEWAY, MAX_ROLES, VerifierSettings};

/// The most audiences that one issuer's tokens may be meant for.
pub const MAX_AUDIENCES: usize = 32;

/// The most claims that may be required.
pub const MAX_REQUIRED_CLAIMS: usize = 32;

/// What every accepted token must say, whatever key signed it; [`VerifierSettings`] are the short
/// form of it.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenRules {
    /// The `iss` that a token must have, letter for letter.
    pub issuer: String,
    /// A token's `aud` must be or contain one of these. At most 32.
    pub audiences: Vec<String>,
    /// How far the issuer's clock and this one may differ, at `exp` and at `nbf`. At most 300 s.
    pub leeway: Duration,
    /// Where the roles stand.
    pub roles_claim: ClaimPath,
    /// The roles that the issuer may give. Others in its tokens count as not there; with `None` it
    /// may give every role, `admin` among them. At most 256.
    pub allowed_roles: Option<Vec<String>>,
    /// What else a token must say. At most 32.
    pub required_claims: Vec<(ClaimPath, Expected)>,
}

impl From<VerifierSettings> for TokenRules {
    fn from(settings: VerifierSettings) -> Self {
        Self {
            issuer: settings.issuer,
            audiences: vec![settings.audience],
            leeway: settings.leeway,
            roles_claim: ClaimPath::default(),
            allowed_roles: None,
            required_claims: Vec::new(),
        }
    }
}

impl TokenRules {
    /// Refuses rules that could never accept a token or would accept too much.
    pub(in crate::security) fn check(&self) -> Result<(), KeyError> {
        if self.issuer.is_empty() {
            return Err(KeyError::EmptyIssuer);
        }
        if self.audiences.is_empty() || self.audiences.iter().any(String::is_empty) {
            return Err(KeyError::EmptyAudience);
        }
        if self.audiences.len() > MAX_AUDIENCES {
            return Err(KeyError::TooManyAudiences(self.audiences.len()));
        }
        if self.required_claims.len() > MAX_REQUIRED_CLAIMS {
            return Err(KeyError::TooManyRequiredClaims(self.required_claims.len()));
        }
        let allowed = self.allowed_roles.as_ref().map_or(0, Vec::len);
        if allowed > MAX_ROLES {
            return Err(KeyError::TooManyAllowedRoles(allowed));
        }
        if self.leeway > MAX_LEEWAY {
            return Err(KeyError::Leeway(self.leeway));
        }
        Ok(())
    }

    pub(super) fn may_grant(&self, role: &str) -> bool {
        let allowed = self.allowed_roles.as_ref();
        allowed.is_none_or(|allowed| allowed.iter().any(|one| one == role))
    }

    /// Whether every token that `before` accepted is accepted by these rules too, with at least the
    /// roles that it had. Time is left out: it is asked of each token again and again.
    pub(in crate::security) fn accept_all_of(&self, before: &Self) -> bool {
        let every = |audience| self.audiences.contains(audience);
        let asked = |claim| before.required_claims.contains(claim);
        let granted = match (&before.allowed_roles, &self.allowed_roles) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(before), Some(now)) => before.iter().all(|role| now.contains(role)),
        };
        self.issuer == before.issuer
            && self.roles_claim == before.roles_claim
            && before.audiences.iter().all(every)
            && self.required_claims.iter().all(asked)
            && granted
    }

    // RFC 7519, 4.1.4: not accepted on or after `exp`.
    pub(in crate::security) fn has_time_left(&self, exp: u64, now: u64) -> bool {
        now < exp.saturating_add(self.leeway.as_secs())
    }
}

/// Where a claim stands in a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath(String);

impl ClaimPath {
    /// A name, or a JSON pointer when it begins with a slash. Every text is one or the other.
    pub fn new(path: impl Into<String>) -> Self {
        Self(path.into())
    }

    /// The claim, unless it is missing or `null`.
    pub(super) fn find<'c>(&self, claims: &'c Map<String, Value>) -> Option<&'c Value> {
        let found = match self.0.strip_prefix('/') {
            None => claims.get(&self.0),
            Some(pointer) => {
                let (first, rest) = match pointer.find('/') {
                    Some(at) => pointer.split_at(at),
                    None => (pointer, ""),
                };
                // RFC 6901, 4: in this order, so that `~01` is `~1`.
                let first = first.replace("~1", "/").replace("~0", "~");
                claims.get(&first).and_then(|value| value.pointer(rest))
            }
        };
        found.filter(|value| !value.is_null())
    }
}

/// `roles`.
impl Default for ClaimPath {
    fn default() -> Self {
        Self::new("roles")
    }
}

impl FromStr for ClaimPath {
    type Err = Infallible;

    fn from_str(path: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(path))
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a required claim must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    /// Anything but `null`.
    Any,
    /// This text, letter for letter.
    Text(String),
    /// This truth value.
    Flag(bool),
    /// This whole number, to the last digit. A claim of 1.0 is 1; one with a fraction or an exponent is
    /// taken for a whole number only below 2^53, where a float is exact.
    Integer(i64),
    /// This number, as a float: 1 and 1.0 are the same.
    Number(f64),
}

impl Expected {
    pub(super) fn is_met_by(&self, claim: &Value) -> bool {
        match self {
            Self::Any => true,
            Self::Text(text) => claim.as_str() == Some(text),
            Self::Flag(flag) => claim.as_bool() == Some(*flag),
            Self::Integer(number) => whole(claim) == Some(i128::from(*number)),
            // A float that is out of the range of exact whole numbers equals no integer.
            Self::Number(number) => match (claim.is_f64(), whole_float(*number)) {
                (true, _) => claim.as_f64() == Some(*number),
                (false, number) => number.is_some() && whole(claim) == number,
            },
        }
    }
}

/// The whole number that a claim is, if there is no doubt which one.
fn whole(claim: &Value) -> Option<i128> {
    let signed = claim.as_i64().map(i128::from);
    signed
        .or_else(|| claim.as_u64().map(i128::from))
        .or_else(|| claim.as_f64().and_then(whole_float))
}

/// From 2^53 on several whole numbers are the same float.
fn whole_float(number: f64) -> Option<i128> {
    const END: f64 = (1_u64 << 53) as f64;
    (number.fract() == 0.0 && number.abs() < END).then_some(number as i128)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn find(path: &str, claims: &Value) -> Option<Value> {
        let claims = claims.as_object().unwrap();
        ClaimPath::new(path).find(claims).cloned()
    }

    #[test]
    fn a_claim_is_found_by_its_name_or_by_a_pointer() {
        let claims = json!({
            "roles": 1, "https://example.com/roles": 2, "a": {"b": [{"c": 3}], "null": null},
            "x/y": {"~": 4}, "": {"z": 5}, "null": null,
        });
        for (path, expected) in [
            ("roles", Some(json!(1))),
            ("https://example.com/roles", Some(json!(2))),
            ("/a/b/0/c", Some(json!(3))),
            ("/x~1y/~0", Some(json!(4))),
            ("//z", Some(json!(5))),
            ("/roles", Some(json!(1))),
            ("a/b", None),
            ("/a/b/1/c", None),
            ("/a/null", None),
            ("null", None),
            ("/", Some(json!({"z": 5}))),
            ("/roles/deeper", None),
        ] {
            assert_eq!(find(path, &claims), expected, "{path}");
        }
    }

    #[test]
    fn a_required_claim_is_compared_by_type_and_value() {
        let any = [json!("yes"), json!(true), json!(1), json!([]), json!({})];
        for claim in &any {
            assert!(Expected::Any.is_met_by(claim), "{claim}");
        }
        for (expected, claim, met) in [
            (Expected::Text("yes".into()), json!("yes"), true),
            (Expected::Text("yes".into()), json!("Yes"), false),
            (Expected::Text("yes".into()), json!(["yes"]), false),
            (Expected::Text("1".into()), json!(1), false),
            (Expected::Flag(true), json!(true), true),
            (Expected::Flag(true), json!("true"), false),
            (Expected::Flag(false), json!(0), false),
            (Expected::Number(1.0), json!(1), true),
            (Expected::Number(1.0), json!(1.0), true),
            (Expected::Number(1.0), json!("1"), false),
            (Expected::Number(1.0), json!(2), false),
            (Expected::Number(0.5), json!(0.5), true),
            (Expected::Number(0.5), json!(0), false),
            (Expected::Integer(1), json!(1), true),
            (Expected::Integer(1), json!(1.0), true),
            (Expected::Integer(-1), json!(-1), true),
            (Expected::Integer(1), json!(1.5), false),
            (Expected::Integer(1), json!("1"), false),
            (Expected::Integer(1), json!(true), false),
            (Expected::Integer(-1), json!(u64::MAX), false),
        ] {
            assert_eq!(expected.is_met_by(&claim), met, "{expected:?} {claim}");
        }
    }

    #[test]
    fn whole_numbers_are_compared_to_the_last_digit() {
        let (even, odd) = (9_007_199_254_740_992_i64, 9_007_199_254_740_993_i64);
        for (expected, claim, met) in [
            (Expected::Integer(odd), json!(odd), true),
            (Expected::Integer(odd), json!(even), false),
            (Expected::Integer(even), json!(odd), false),
            // As a float it may have been the next one.
            (Expected::Integer(even), json!(even as f64), false),
            (Expected::Number(even as f64), json!(odd), false),
            (Expected::Integer(i64::MAX), json!(i64::MAX), true),
            (
                Expected::Integer(i64::MAX),
                json!(i64::MAX as u64 + 1),
                false,
            ),
            (Expected::Integer(i64::MAX), json!(i64::MAX as f64), false),
        ] {
            assert_eq!(expected.is_met_by(&claim), met, "{expected:?} {claim}");
        }
    }

    fn rules() -> TokenRules {
        TokenRules {
            audiences: vec!["us".into(), "others".into()],
            allowed_roles: Some(vec!["user".into(), "partner".into()]),
            required_claims: vec![(ClaimPath::new("tenant"), Expected::Text("a".into()))],
            ..TokenRules::from(VerifierSettings {
                issuer: "issuer".into(),
                audience: String::new(),
                leeway: Duration::ZERO,
            })
        }
    }

    #[test]
    fn rules_that_ask_less_and_grant_more_accept_all_that_was_accepted_before() {
        let changes: [fn(&mut TokenRules); 5] = [
            |_| {},
            |rules| rules.audiences.insert(0, "more".into()),
            |rules| rules.required_claims.clear(),
            |rules| rules.allowed_roles = None,
            |rules| rules.leeway = MAX_LEEWAY,
        ];
        for (i, change) in changes.into_iter().enumerate() {
            let mut now = rules();
            change(&mut now);
            assert!(now.accept_all_of(&rules()), "{i}");
        }
    }

    #[test]
    fn rules_that_ask_more_or_grant_less_or_look_elsewhere_do_not() {
        let changes: [fn(&mut TokenRules); 6] = [
            |rules| rules.issuer.push('x'),
            |rules| drop(rules.audiences.pop()),
            |rules| {
                let claim = (ClaimPath::new("level"), Expected::Any);
                rules.required_claims.push(claim);
            },
            |rules| rules.required_claims[0].1 = Expected::Text("b".into()),
            |rules| rules.allowed_roles = Some(vec!["user".into()]),
            |rules| rules.roles_claim = ClaimPath::new("scope"),
        ];
        for (i, change) in changes.into_iter().enumerate() {
            let mut now = rules();
            change(&mut now);
            assert!(!now.accept_all_of(&rules()), "{i}");
        }
        let mut every_role = rules();
        every_role.allowed_roles = None;
        assert!(!rules().accept_all_of(&every_role));
    }
}
