//! The command line: what is wrong is said, and how a process ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::net::TcpListener;
use std::process::Command;

use intellirouter_tests::backend::Backend;
use intellirouter_tests::client::{Connection, in_time};
use intellirouter_tests::{Config, DEADLINE, Process, Site, binary, grpc, here};
use tokio::sync::oneshot;

#[test]
fn the_admin_address_tells_of_life_readiness_and_figures() {
    let site = Site::new();
    let gateway = site.gateway(&Config::default());
    for (path, what) in [
        ("/livez", ""),
        ("/readyz", ""),
        ("/metrics", "# EOF"),
        ("/config", "jwt.secret"),
    ] {
        let url = format!("http://127.0.0.1:{}{path}", gateway.admin);
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail", "--max-time", "20", &url]);
        let (status, out, err) = Process::run("curl", &command);
        assert!(status.success(), "{path}: {err}");
        assert!(out.contains(what), "{path}: {out}");
        assert!(!out.contains(&site.secret()), "{path} tells a secret");
    }
}

#[test]
fn a_bad_config_prints_every_fault_with_file_line_and_key_and_exits_64() {
    let site = Site::new();
    let text = "\
[listen]
address = \"nowhere\"
cert_file = \"certs/gateway.crt\"
key_file = \"certs/missing.key\"
colour = \"red\"

[auth]
leeway = \"soon\"
[[auth.keys]]
algorithm = \"RS257\"
secret_file = \"certs/jwt.secret\"

[identity]
key_file = \"certs/identity.key\"

[[upstreams]]
name = \"one\"
endpoints = [\"ftp://h:1\"]

[[routes]]
match = \"no-slash\"
upstream = \"two\"
";
    let file = site.write("bad.toml", text);
    for command in ["check", "gateway"] {
        let args = [command, "--config", file.to_str().unwrap()];
        let (status, out, err) = Process::run(command, &binary::command(&args));
        assert_eq!(status.code(), Some(64), "{command}: {out}{err}");
        for (line, key) in [
            (2, "listen.address"),
            (4, "listen.key_file"),
            (5, "listen.colour"),
            (8, "auth.leeway"),
            (10, "auth.keys[0].algorithm"),
            (18, "upstreams[0].endpoints[0]"),
            (21, "routes[0].match"),
            (22, "routes[0].upstream"),
        ] {
            let place = format!("{}:{line}: {key}", file.display());
            assert!(err.contains(&place), "{command}: no {place} in\n{err}");
        }
    }
}

#[test]
fn a_syntax_error_in_a_config_is_a_fault_with_its_line() {
    let site = Site::new();
    let file = site.write("bad.toml", "[listen]\naddress = \n");
    let args = ["check", "--config", file.to_str().unwrap()];
    let (status, _, err) = Process::run("check", &binary::command(&args));
    assert_eq!(status.code(), Some(64));
    assert!(err.contains(&format!("{}:2:", file.display())), "{err}");
}

#[test]
fn a_config_file_that_is_not_there_exits_64_and_is_named() {
    let args = ["gateway", "--config", "no-such-file.toml"];
    let (status, _, err) = Process::run("gateway", &binary::command(&args));
    assert_eq!(status.code(), Some(64), "{err}");
    assert!(err.contains("no-such-file.toml"), "{err}");
}

/// Compiles the descriptor set of the foreign service into the site.
fn descriptors(site: &Site) {
    let mut command = Command::new(here(".venv/bin/python"));
    command
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(here("proto"));
    command.arg(format!(
        "--descriptor_set_out={}",
        site.dir().join("interop.bin").display()
    ));
    let (status, out, err) = Process::run("protoc", command.arg("interop.proto"));
    assert!(status.success(), "{out}{err}");
}

#[test]
fn check_passes_a_good_config_and_names_each_method_that_no_rule_covers() {
    let site = Site::new();
    descriptors(&site);
    let config = Config::default().upstream("interop", 1).with_text(
        "[descriptors]\nfiles = [\"interop.bin\"]\n\
         [[routes]]\nmatch = \"/interop.testing.Interop/*\"\nupstream = \"interop\"\n\
         [[routes]]\nmatch = \"/interop.testing.Interop/Sleep\"\nupstream = \"interop\"\n\
         roles = [\"tester\"]\n",
    );
    let file = site.write("good.toml", &config.render());
    let args = ["check", "--config", file.to_str().unwrap()];
    let (status, out, err) = Process::run("check", &binary::command(&args));
    assert_eq!(status.code(), Some(0), "{out}{err}");
    assert!(out.contains("/interop.testing.Interop/EmptyCall"), "{out}");
    assert!(!out.contains("/interop.testing.Interop/Sleep"), "{out}");
}

#[test]
fn the_example_config_passes_check_with_development_files() {
    let site = Site::new();
    // The example names files relative to its own folder.
    let example = std::fs::read_to_string(here("../config/example.toml")).unwrap();
    std::fs::create_dir(site.dir().join("config")).unwrap();
    let file = site.write("config/example.toml", &example);
    let args = ["check", "--config", file.to_str().unwrap()];
    let (status, out, err) = Process::run("check", &binary::command(&args));
    assert_eq!(status.code(), Some(0), "{out}{err}");
}

#[test]
fn a_taken_port_is_named_and_exits_1() {
    let site = Site::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for key in ["[listen]\naddress = ", "[admin]\naddress = "] {
        let text = Config::default().render().replace(
            &format!("{key}\"127.0.0.1:0\""),
            &format!("{key}\"127.0.0.1:{port}\""),
        );
        assert!(text.contains(&port));
        let file = site.write("taken.toml", &text);
        let args = ["gateway", "--config", file.to_str().unwrap()];
        let (status, out, err) = Process::run("gateway", &binary::command(&args));
        assert_eq!(status.code(), Some(1), "{out}{err}");
        assert!(err.contains(&port), "{err}");
    }
}

#[test]
fn a_fault_in_a_named_file_is_told_with_the_config_before_a_port_is_bound() {
    let site = Site::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    site.write("blank.secret", " \n");
    let text = Config::default()
        .render()
        .replace("certs/jwt.secret", "blank.secret")
        .replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    let file = site.write("faulty.toml", &text);
    for name in ["gateway", "check"] {
        let args = [name, "--config", file.to_str().unwrap()];
        let (status, out, err) = Process::run(name, &binary::command(&args));
        assert_eq!(status.code(), Some(64), "{name}: {out}{err}");
        assert!(err.contains("faulty.toml"), "{name}: {err}");
        assert!(err.contains("auth.keys[0]"), "{name}: {err}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_lets_calls_finish_takes_no_more_and_exits_0() {
    let site = Site::new();
    let (called, calls) = oneshot::channel();
    let (finish, finished) = oneshot::channel();
    // Taken by the only call.
    let once = std::sync::Arc::new(std::sync::Mutex::new(Some((called, finished))));
    let backend = Backend::start(&site, move |_, mut respond| {
        let (called, finished) = once.lock().unwrap().take().expect("one call is made");
        async move {
            called.send(()).unwrap();
            finished.await.unwrap();
            let head = http::Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "0");
            respond.send_response(head.body(()).unwrap(), true).unwrap();
        }
    })
    .await;
    let config = Config::default()
        .upstream("slow", backend.port)
        .route("/slow.Service/*", "slow");
    let mut gateway = site.gateway(&config);
    let bearer = format!("Bearer {}", site.token(&["tester"]));
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let mut call = client
        .call("/slow.Service/Method", &[("authorization", &bearer)])
        .await;
    call.send.send_data(grpc::frame(false, b""), true).unwrap();
    in_time("the call", calls).await.unwrap();

    gateway.interrupt();
    let end = std::time::Instant::now() + DEADLINE;
    while tokio::net::TcpStream::connect(("127.0.0.1", gateway.port))
        .await
        .is_ok()
    {
        assert!(
            std::time::Instant::now() < end,
            "it still takes connections"
        );
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    finish.send(()).unwrap();
    assert_eq!(call.answer().await.status().code, 0);
    assert_eq!(
        gateway.process.wait().code(),
        Some(0),
        "{}",
        gateway.process.output()
    );
}

#[test]
fn a_terminate_signal_drains_as_an_interrupt_does() {
    let site = Site::new();
    let mut gateway = site.gateway(&Config::default());
    gateway.process.signal(rustix::process::Signal::TERM);
    assert_eq!(
        gateway.process.wait().code(),
        Some(0),
        "{}",
        gateway.process.output()
    );
}

#[tokio::test]
async fn token_prints_a_good_token_alone() {
    let site = Site::new();
    let service = site.interop();
    let gateway = site.gateway(&Config::interop(service.port));
    let certs = site.dir().join("certs");
    let args = [
        "token",
        "--subject",
        "carol",
        "--role",
        "tester",
        "--role",
        "reader",
        "--ttl",
    ];
    let args = [&args[..], &["5m", "--certs", certs.to_str().unwrap()]].concat();
    let (status, out, err) = Process::run("token", &binary::command(&args));
    assert!(status.success() && err.is_empty(), "{err}");
    assert_eq!(out.lines().count(), 1, "{out}");
    assert_eq!(out.split('.').count(), 3);
    let bearer = format!("Bearer {out}");
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let path = "/interop.testing.Interop/EmptyCall";
    let answer = client.unary(path, &[("authorization", &bearer)], b"").await;
    assert_eq!(answer.status().code, 0);
}

#[test]
fn bad_usage_exits_64_and_help_exits_0() {
    for args in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &["gateway"],
        &["gateway", "--config"],
        &["token", "--subject", "s"],
        &["token", "--subject", "s", "--role", "r", "--ttl", "soon"],
        &["up", "--listen", "nowhere"],
        &["events", "tail"],
    ] {
        let (status, out, err) = Process::run("usage", &binary::command(args));
        assert_eq!(status.code(), Some(64), "{args:?}: {out}{err}");
        assert!(
            !err.is_empty() && out.is_empty(),
            "{args:?}: what is wrong goes to stderr"
        );
    }
    for args in [&["--help"][..], &["up", "--help"], &["--version"]] {
        let (status, out, _) = Process::run("help", &binary::command(args));
        assert_eq!(status.code(), Some(0), "{args:?}");
        assert!(!out.is_empty());
    }
}
