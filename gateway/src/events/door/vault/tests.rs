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
async fn a_ticket_is_taken_once_and_a_session_is_found_again_and_again() {
    let vault = Vault::default();
    for kind in [Kind::Ticket, Kind::Session] {
        vault
            .put((kind, &key(1)), &pass("alice"), LIFE, 1)
            .await
            .unwrap();
    }
    let take = async || subject(vault.take(Kind::Ticket, &key(1)).await.unwrap());
    assert_eq!(take().await.as_deref(), Some("alice"));
    assert_eq!(take().await, None);
    for _ in 0..2 {
        let found = vault.get(Kind::Session, &key(1)).await.unwrap();
        assert_eq!(subject(found).as_deref(), Some("alice"));
    }
    assert!(vault.get(Kind::Session, &key(2)).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_is_no_longer_there() {
    let vault = Vault::default();
    for kind in [Kind::Ticket, Kind::Session] {
        vault
            .put((kind, &key(1)), &pass("a"), LIFE, 1)
            .await
            .unwrap();
    }
    tokio::time::advance(LIFE).await;
    assert!(vault.take(Kind::Ticket, &key(1)).await.unwrap().is_none());
    assert!(vault.get(Kind::Session, &key(1)).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn one_subject_fills_a_quarter_and_the_places_come_back_with_time() {
    let vault = Vault::default();
    let put = async |n: usize, owner| {
        let place = (Kind::Session, &key(n));
        vault.put(place, &pass("a"), LIFE, owner).await
    };
    for n in 0..PLACES / 4 {
        put(n, 1).await.unwrap();
    }
    let refused = put(PLACES, 1).await.unwrap_err();
    assert_eq!(refused.label, "too_many_tickets");
    assert!(refused.retry_after.is_some());
    put(PLACES, 2).await.unwrap();
    // Again for the same place takes no other.
    put(0, 1).await.unwrap();
    tokio::time::advance(LIFE).await;
    put(PLACES + 1, 1).await.unwrap();
    let Vault::Own(own) = &vault else {
        panic!("no Redis is named");
    };
    let own = own.lock().unwrap();
    assert_eq!((own.kept.len(), own.of_one.len()), (1, 1));
    let kept: usize = own.kept.values().map(|place| place.pass.len()).sum();
    assert_eq!(own.bytes, kept);
}

#[tokio::test(start_paused = true)]
async fn all_passes_together_have_a_bound_in_bytes_and_each_has_one() {
    let vault = Vault::default();
    let mut large = pass("a");
    large.channels = vec!["x".repeat(100_000)];
    let put = async |n: usize| {
        let place = (Kind::Ticket, &key(n));
        vault.put(place, &large, LIFE, n as u64).await
    };
    let mut kept = 0;
    while put(kept).await.is_ok() {
        kept += 1;
    }
    assert!((600..=BYTES / 100_000).contains(&kept), "{kept}");
    large.channels = vec!["x".repeat(MAX_PASS_BYTES)];
    let place = (Kind::Ticket, &key(kept));
    let refused = vault.put(place, &large, LIFE, 1).await.unwrap_err();
    assert_eq!(refused.code, tonic::Code::InvalidArgument);
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
}
