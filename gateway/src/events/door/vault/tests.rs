use super::own::BYTES;
use super::*;
use crate::layers::authenticate::VerifiedWord;

const LIFE: Duration = Duration::from_secs(30);

fn pass(subject: &str) -> Pass {
    Pass {
        word: VerifiedWord {
            issuer: "i".into(),
            subject: subject.into(),
            roles: vec!["user".into()],
            expires: 4_000_000_000,
            issued_at: None,
            token_id: None,
            claims: Vec::new(),
            mark: "m".into(),
        },
        channels: vec!["intellirouter:*".into()],
        wanted: Default::default(),
        origin: None,
    }
}

fn key(n: usize) -> Key {
    Key::of(Kind::Ticket, &[&n.to_string()])
}

fn subject(pass: Option<Pass>) -> Option<String> {
    pass.map(|pass| pass.word.subject)
}

#[tokio::test(start_paused = true)]
async fn a_ticket_is_found_until_one_session_takes_its_place() {
    let vault = Vault::default();
    let alice = pass("alice");
    let ticket = (Kind::Ticket, &key(1));
    vault.put(ticket, &alice, LIFE).await.unwrap();
    let find = async |kind, n| subject(vault.get(kind, &key(n)).await.unwrap());
    for _ in 0..2 {
        let found = find(Kind::Ticket, 1).await;
        assert_eq!(found.as_deref(), Some("alice"));
    }
    assert!(exchange(&vault, 1, 2, &alice).await.unwrap());
    assert!(!exchange(&vault, 1, 3, &alice).await.unwrap());
    assert_eq!(find(Kind::Ticket, 1).await, None);
    for _ in 0..2 {
        let found = find(Kind::Session, 2).await;
        assert_eq!(found.as_deref(), Some("alice"));
    }
    assert_eq!(find(Kind::Session, 3).await, None);
    assert_eq!(sums(&vault).0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_ticket_whose_session_finds_no_room_stays() {
    let vault = Vault::default();
    let most = BYTES / MAX_PASS_BYTES;
    for n in 1..most {
        let subject = largest(&format!("{:02}", n / MOST_OF_ONE));
        put(&vault, n, &subject).await.unwrap();
    }
    let mut larger = largest("bob");
    let mut bob = larger.clone();
    bob.channels[0].truncate(20);
    let ticket = (Kind::Ticket, &key(0));
    vault.put(ticket, &bob, LIFE).await.unwrap();
    put(&vault, most, &pass("eve")).await.unwrap();
    larger.channels[0].pop();
    let refused = exchange(&vault, 0, most + 1, &larger).await.unwrap_err();
    assert_eq!(refused.label, "too_many_tickets");
    let found = vault.get(Kind::Ticket, &key(0)).await.unwrap();
    assert_eq!(subject(found).as_deref(), Some("bob"));
    sums(&vault);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_is_no_longer_there() {
    let vault = Vault::default();
    for kind in [Kind::Ticket, Kind::Session] {
        vault.put((kind, &key(1)), &pass("a"), LIFE).await.unwrap();
    }
    tokio::time::advance(LIFE).await;
    for kind in [Kind::Ticket, Kind::Session] {
        assert!(vault.get(kind, &key(1)).await.unwrap().is_none());
    }
    assert!(!exchange(&vault, 1, 2, &pass("a")).await.unwrap());
}

/// Puts sessions of a subject.
async fn put(vault: &Vault, n: usize, pass: &Pass) -> Result<(), Reply> {
    vault.put((Kind::Session, &key(n)), pass, LIFE).await
}

/// A session in the place of a ticket.
async fn exchange(vault: &Vault, ticket: usize, to: usize, pass: &Pass) -> Result<bool, Reply> {
    let (ticket, session) = (key(ticket), key(to));
    vault.exchange(&ticket, &session, pass, LIFE).await
}

async fn stands(vault: &Vault, n: usize) -> bool {
    let found = vault.get(Kind::Session, &key(n)).await.unwrap();
    found.is_some()
}

/// The books agree with what is kept; gives places and bytes.
fn sums(vault: &Vault) -> (usize, usize) {
    let Vault::Own(own) = vault else {
        panic!("no Redis is named");
    };
    let own = own.lock().unwrap();
    let kept: usize = own.kept.values().map(|place| place.pass.len()).sum();
    assert_eq!(own.bytes, kept);
    let listed: usize = own.of_one.values().map(|own| own.len()).sum();
    assert_eq!(own.kept.len(), listed);
    assert!(own.of_one.values().all(|own| !own.is_empty()));
    (own.kept.len(), own.bytes)
}

#[tokio::test(start_paused = true)]
async fn of_one_subject_the_newest_256_are_kept_and_others_lose_none() {
    let vault = Vault::default();
    let (alice, bob) = (pass("alice"), pass("bob"));
    put(&vault, 0, &bob).await.unwrap();
    for n in 1..=MOST_OF_ONE {
        put(&vault, n, &alice).await.unwrap();
    }
    assert!(stands(&vault, 1).await);
    // Renewed: no longer the oldest, and takes no place of another.
    put(&vault, 1, &alice).await.unwrap();
    assert!(stands(&vault, 2).await);
    put(&vault, 1000, &alice).await.unwrap();
    assert!(!stands(&vault, 2).await);
    for n in [0, 1, 3, MOST_OF_ONE, 1000] {
        assert!(stands(&vault, n).await, "{n}");
    }
    // Of another issuer the same name is another subject.
    let mut other = pass("alice");
    other.word.issuer = "j".into();
    put(&vault, 1001, &other).await.unwrap();
    assert!(stands(&vault, 3).await);
    assert_eq!(sums(&vault).0, MOST_OF_ONE + 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_used_or_has_ended_goes_before_the_oldest() {
    let vault = Vault::default();
    let alice = pass("alice");
    let long = (Kind::Session, &key(0));
    vault.put(long, &alice, 2 * LIFE).await.unwrap();
    for n in 1..MOST_OF_ONE {
        let place = (Kind::Ticket, &key(n));
        vault.put(place, &alice, LIFE).await.unwrap();
    }
    assert!(exchange(&vault, 1, 1000, &alice).await.unwrap());
    assert!(stands(&vault, 0).await);
    tokio::time::advance(LIFE).await;
    put(&vault, 1001, &alice).await.unwrap();
    assert!(stands(&vault, 0).await && stands(&vault, 1001).await);
    assert_eq!(sums(&vault).0, 2);
}

/// As large as a pass may be.
fn largest(subject: &str) -> Pass {
    let mut pass = pass(subject);
    let rest = MAX_PASS_BYTES - serde_json::to_vec(&pass).unwrap().len();
    pass.channels[0].push_str(&"x".repeat(rest));
    pass
}

#[tokio::test(start_paused = true)]
async fn one_subject_with_the_largest_passes_leaves_the_bytes_to_others() {
    let vault = Vault::default();
    for n in 0..BYTES / MAX_PASS_BYTES + 1 {
        put(&vault, n, &largest("alice")).await.unwrap();
    }
    assert_eq!(sums(&vault), (MOST_OF_ONE, 4 * 1024 * 1024));
    put(&vault, 1_000_000, &largest("bob")).await.unwrap();
    let mut larger = largest("bob");
    larger.channels[0].push('x');
    let refused = put(&vault, 1_000_001, &larger).await.unwrap_err();
    assert_eq!(refused.code, tonic::Code::InvalidArgument);
    assert!(refused.message.contains("16 KiB"), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn all_subjects_together_have_a_bound_and_the_room_comes_back_with_time() {
    let vault = Vault::default();
    let most = BYTES / MAX_PASS_BYTES;
    let subject = |n: usize| largest(&format!("{:02}", n / MOST_OF_ONE));
    for n in 0..most {
        put(&vault, n, &subject(n)).await.unwrap();
    }
    let refused = put(&vault, most, &subject(most)).await.unwrap_err();
    assert_eq!(refused.label, "too_many_tickets");
    assert!(refused.retry_after.is_some());
    // Who has a full share goes on in it.
    put(&vault, most, &subject(0)).await.unwrap();
    tokio::time::advance(LIFE).await;
    put(&vault, most + 1, &subject(most)).await.unwrap();
    assert_eq!(sums(&vault), (1, MAX_PASS_BYTES));
}

#[test]
fn neither_a_ticket_nor_a_cookie_stands_in_a_key() {
    let secret = "s3cret-s3cret";
    let key = Key::of(Kind::Session, &[secret, secret]);
    let name = Kind::Session.redis_key(&key);
    assert!(name.starts_with("{intellirouter}:session:"), "{name}");
    assert!(!name.contains(secret));
    assert!(key != Key::of(Kind::Session, &["s3cret-s3crets3cret", "-s3cret"]));
    assert!(key != Key::of(Kind::Ticket, &[secret, secret]));
    let all = redis_key_of_all(&Key::of_owner(&pass("alice")));
    assert!(all.starts_with("{intellirouter}:sessions:") && !all.contains("alice"));
}
