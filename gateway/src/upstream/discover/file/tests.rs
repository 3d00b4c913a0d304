//! With real files; a second is as long as the test says.

use super::*;
use crate::test_util::config;
use crate::upstream::Upstream;

/// An upstream whose endpoints stand in this file; `more` are further keys.
fn open(path: &Path, more: &str) -> Result<Arc<Upstream>, String> {
    open_after(None, path, more)
}

/// The same, as the next generation of `old`.
fn open_after(
    old: Option<&Arc<Upstream>>,
    path: &Path,
    more: &str,
) -> Result<Arc<Upstream>, String> {
    let config = config(&format!(
        "[[upstreams]]\nname = 'b'\nendpoints_file = '{}'\n{more}\n",
        path.display()
    ));
    let opened = Upstream::open(&config.upstreams[0], old, &Default::default());
    opened.map_err(|error| error.to_string())
}

fn names(upstream: &Upstream) -> Vec<String> {
    let endpoints = upstream.endpoints();
    endpoints.iter().map(|one| one.name.to_string()).collect()
}

/// A folder with a file in it.
fn file(content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints");
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

#[test]
fn a_line_is_a_url_and_comments_and_blank_lines_are_none() {
    let text = "# all of them\n\nhttp://10.0.0.1:80\r\n  http://b.test:81  # the big one\n\
                http://[::1]:82\nhttp://10.0.0.1:80\n#";
    let (_dir, path) = file(text);
    let upstream = open(&path, "").unwrap();
    let expected = ["http://10.0.0.1:80", "http://b.test:81", "http://[::1]:82"];
    assert_eq!(names(&upstream), expected);
}

#[test]
fn each_fault_is_told_with_its_file_and_line() {
    let good = "http://10.0.0.1:80\n";
    for (text, fault) in [
        (
            format!("{good}ftp://h:1"),
            ":2: expected \"https://HOST:PORT\"",
        ),
        (
            format!("\n\n{good}h:1/path"),
            ":4: expected \"https://HOST:PORT\"",
        ),
        (
            format!("{good}https://h:1"),
            ":2: https:// needs the upstream's ca_file",
        ),
        (format!("# none\n{}", ""), ": expected at least one URL"),
        ("#".repeat(64 * 1024 + 1), ": expected at most 64 KiB"),
    ] {
        let (_dir, path) = file(&text);
        let error = open(&path, "").err().expect(fault);
        let expected = format!("{}{fault}", path.display());
        assert!(error.starts_with(&expected), "{error} is not {expected}");
    }
    let (_dir, path) = file(b"\xff\xfe");
    assert!(
        open(&path, "")
            .err()
            .unwrap()
            .ends_with(":1: expected UTF-8")
    );
}

#[test]
fn tls_endpoints_may_stand_beside_plain_ones_where_there_are_authorities() {
    let (_dir, path) = file("http://10.0.0.1:80\nhttps://10.0.0.2:443\n");
    let upstream = open(&path, "ca_file = 'ca.crt'").unwrap();
    assert_eq!(names(&upstream).len(), 2);
}

#[test]
fn a_file_of_exactly_the_bound_is_read_and_its_first_256_endpoints_are_used() {
    let mut text: String = (0..300).map(|i| format!("http://b{i}.test:80\n")).collect();
    text.push_str(&"#".repeat(64 * 1024 - text.len()));
    let (_dir, path) = file(text);
    let upstream = open(&path, "").unwrap();
    let names = names(&upstream);
    assert_eq!((names.len(), &*names[255]), (256, "http://b255.test:80"));
    assert_eq!(upstream.describe()["discovery"]["left_out"], 44);
}

/// Waits until that is so; gives up after so many looks.
async fn within(looks: u32, is_so: impl Fn() -> bool) -> bool {
    for _ in 0..looks * 10 {
        if is_so() {
            return true;
        }
        tokio::time::sleep(EVERY / 10).await;
    }
    false
}

#[tokio::test(start_paused = true)]
async fn a_change_is_taken_within_two_seconds_however_it_is_made() {
    let (dir, path) = file("http://10.0.0.1:80\n");
    let upstream = open(&path, "").unwrap();
    upstream.start();
    let shows = |name: &'static str| {
        let upstream = upstream.clone();
        move || names(&upstream) == [name]
    };
    std::fs::write(&path, "http://10.0.0.2:80\n").unwrap();
    assert!(within(2, shows("http://10.0.0.2:80")).await);

    let new = dir.path().join("new");
    std::fs::write(&new, "http://10.0.0.3:80\n").unwrap();
    std::fs::rename(&new, &path).unwrap();
    assert!(within(2, shows("http://10.0.0.3:80")).await);

    for (name, text) in [("a", "http://10.0.0.4:80"), ("b", "http://10.0.0.5:80")] {
        std::fs::write(dir.path().join(name), text).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(name, &path).unwrap();
        assert!(within(2, shows(text)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn what_stays_is_kept_and_another_order_changes_nothing() {
    let (_dir, path) = file("http://10.0.0.1:80\nhttp://10.0.0.2:80\n");
    let upstream = open(&path, "").unwrap();
    upstream.start();
    let before = upstream.endpoints();
    std::fs::write(&path, "http://10.0.0.2:80\nhttp://10.0.0.1:80\n").unwrap();
    tokio::time::sleep(5 * EVERY).await;
    assert!(Arc::ptr_eq(&before, &upstream.endpoints()));
    std::fs::write(&path, "http://10.0.0.2:80\n").unwrap();
    assert!(within(2, || upstream.endpoints().len() == 1).await);
    assert!(Arc::ptr_eq(&before[1], &upstream.endpoints()[0]));
}

#[tokio::test(start_paused = true)]
async fn a_faulty_change_keeps_what_is_known_and_is_told_until_it_is_mended() {
    let (_dir, path) = file("http://10.0.0.1:80\n");
    let upstream = open(&path, "").unwrap();
    upstream.start();
    let before = upstream.endpoints();
    let told = || upstream.describe()["discovery"].clone();
    for (text, fault) in [
        ("http://10.0.0.2:80\nnonsense", ":2: expected"),
        ("", ": expected at least one URL"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = || {
            told()["last_fault"]["error"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        assert!(within(2, || error().contains(fault)).await, "{}", error());
        assert_eq!(told()["is_stale"], true);
    }
    // Judged once, not at each look.
    let faults = &upstream.dialer.figures.discovery_faults;
    assert_eq!(faults.get(), 2);
    tokio::time::sleep(10 * EVERY).await;
    assert_eq!(faults.get(), 2);
    std::fs::remove_file(&path).unwrap();
    assert!(within(2, || faults.get() > 2).await);
    assert!(Arc::ptr_eq(&before, &upstream.endpoints()));

    std::fs::write(&path, "http://10.0.0.1:80\n").unwrap();
    assert!(within(2, || told()["is_stale"] == false).await);
    assert!(Arc::ptr_eq(&before, &upstream.endpoints()));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_a_reload_makes_good_is_taken_though_it_has_not_changed() {
    let (_dir, path) = file("http://10.0.0.1:80\n");
    let old = open(&path, "").unwrap();
    old.start();
    std::fs::write(&path, "https://10.0.0.2:443\n").unwrap();
    let is_stale = || old.describe()["discovery"]["is_stale"] == true;
    assert!(within(2, is_stale).await);
    let new = open_after(Some(&old), &path, "ca_file = 'ca.crt'").unwrap();
    new.start();
    assert!(within(2, || names(&new) == ["https://10.0.0.2:443"]).await);
    assert!(!is_stale());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_still_being_written_is_left_alone() {
    let (_dir, path) = file("http://10.0.0.1:80\n");
    let upstream = open(&path, "").unwrap();
    let shared = upstream.discovery.shared.clone();
    shared.serve(&upstream);
    let mut watch = Watch {
        shared,
        path: path.clone(),
        judged: None,
        candidate: None,
    };
    let mut text = String::new();
    for i in 2..6 {
        text.push_str(&format!("http://10.0.0.{i}:80\n"));
        std::fs::write(&path, &text).unwrap();
        assert!(matches!(watch.look().await, Look::Changing));
        assert_eq!(names(&upstream), ["http://10.0.0.1:80"]);
    }
    assert!(matches!(watch.look().await, Look::Judged));
    assert_eq!(upstream.endpoints().len(), 4);
}
