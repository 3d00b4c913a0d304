//! The services as processes of their own: the same promises as in one
//! process, events over a real Redis, and how each process starts and ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::process::Command;

use intellirouter_tests::events::json;
use intellirouter_tests::redis::Redis;
use intellirouter_tests::service::python;
use intellirouter_tests::services::{self, Service, Services, chain_engine, model_registry, page};
use intellirouter_tests::{Gateway, Process, Site, binary, scripts};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

/// Every event of the services, as plain subscribers of Redis see them.
const CHANNELS: [&str; 6] = [
    "intellirouter:chain_engine:router_core:chain_execution_completed",
    "intellirouter:chain_engine:router_core:chain_execution_failed",
    "intellirouter:chain_engine:router_core:chain_step_completed",
    "intellirouter:router_core:model_registry:model_health_check",
    "intellirouter:router_core:model_registry:model_routing_decision",
    "intellirouter:router_core:model_registry:model_usage",
];

const REGISTRY: &str = "intellirouter.model_registry.v1.ModelRegistryService";
const ENGINE: &str = "intellirouter.chain_engine.v1.ChainEngineService";

#[test]
fn separate_processes_keep_the_promises_of_one_and_redis_sees_their_events() {
    let services = Services::new();
    let subscriber = services.redis.subscriber();
    let all = ["registry", "router", "chains", "store", "roles"];
    let secret = services.site.secret();
    scripts::run_alone(&services::groups(&services.gateway, &secret, &all));
    for channel in CHANNELS {
        subscriber.line(channel, |line| (line == channel).then_some(()));
    }
}

#[test]
fn nobody_gets_past_the_gateway_without_certificate_and_token() {
    let services = Services::new();
    let ports = [
        (services.registry.port, REGISTRY, "GetModel"),
        (services.engine.port, ENGINE, "GetChainStatus"),
    ];
    for (port, service, method) in ports {
        let mut client = services::direct(&services.site, port, service);
        scripts::run_alone(client.args(["--method", method]));
    }
}

#[test]
fn every_process_tells_of_life_readiness_and_figures() {
    let services = Services::new();
    for admin in [services.registry.admin, services.engine.admin] {
        for path in ["/livez", "/readyz"] {
            assert_eq!(page(admin, path).0, 200, "{path}");
        }
        let (status, metrics) = page(admin, "/metrics");
        assert_eq!(status, 200);
        assert!(
            metrics.contains("intellirouter_") && metrics.contains("# EOF"),
            "{metrics}"
        );
        assert!(
            !metrics.contains(&services.site.secret()),
            "it tells a secret"
        );
    }
}

/// A process that does not start: its exit code, and what it says.
fn refusal(name: &str, command: &Command) -> (Option<i32>, String) {
    let (status, out, err) = Process::run(name, command);
    assert_eq!(out, "", "{name} said where it listens");
    (status.code(), err)
}

#[test]
fn events_in_the_memory_of_one_process_are_refused() {
    let site = Site::new();
    for (name, command) in [
        ("registry", model_registry(&site, "memory:")),
        ("engine", chain_engine(&site, "memory:", 1)),
    ] {
        let (code, err) = refusal(name, &command);
        assert_eq!(code, Some(64), "{err}");
        assert!(err.contains("memory:") && err.contains("redis://"), "{err}");
    }
}

#[test]
fn a_command_line_that_cannot_be_meant_is_refused_without_repeating_a_key() {
    let site = Site::new();
    for (argument, value, told) in [
        ("--nonsense", "1", "--nonsense"),
        ("--listen", "nowhere", "--listen"),
        ("--log", "loud==", "--log"),
        ("--api-key", "sk-written-by-mistake", "--api-key"),
        ("--events", "redis://:sk-written-by-mistake@", "event store"),
    ] {
        let mut command = Command::new(binary::service("intellirouter-model-registry"));
        command.arg("--certs").arg(site.certs.path(""));
        command.arg("--data").arg(site.dir().join("data"));
        let (code, err) = refusal("registry", command.args([argument, value]));
        assert_eq!(code, Some(64), "{argument} {value}: {err}");
        assert!(err.contains(told), "{argument} {value}: {err}");
        assert!(!err.contains("by-mistake"), "it repeats the key: {err}");
    }
}

#[test]
fn a_file_that_is_missing_is_named_before_anything_listens() {
    let (site, redis) = (Site::new(), Redis::start());
    for file in [
        "backend.crt",
        "backend.key",
        "ca.crt",
        "identity.pub",
        "jwt.secret",
    ] {
        let (path, aside) = (site.certs.path(file), site.certs.path("aside"));
        std::fs::rename(&path, &aside).unwrap();
        for (name, command) in [
            ("registry", model_registry(&site, &redis.url())),
            ("engine", chain_engine(&site, &redis.url(), 1)),
        ] {
            let (code, err) = refusal(name, &command);
            assert_eq!(code, Some(64), "{name} without {file}: {err}");
            assert!(err.contains(file), "{name} without {file}: {err}");
        }
        std::fs::rename(&aside, &path).unwrap();
    }
}

#[test]
fn a_second_process_on_the_same_data_is_refused_and_names_the_file() {
    let services = Services::new();
    let (site, events) = (&services.site, services.redis.url());
    for (name, file, command) in [
        (
            "registry",
            "model_registry.db",
            model_registry(site, &events),
        ),
        (
            "engine",
            "chain_engine.db",
            chain_engine(site, &events, services.registry.port),
        ),
    ] {
        let (code, err) = refusal(name, &command);
        assert_eq!(code, Some(1), "{err}");
        assert!(
            err.contains(file) && err.contains("another process"),
            "{err}"
        );
    }
}

#[test]
fn a_process_that_is_told_to_stop_ends_well_and_its_data_can_be_used_again() {
    let mut services = Services::new();
    for service in [&mut services.engine, &mut services.registry] {
        service.process.signal(Signal::TERM);
        let status = service.process.wait();
        assert_eq!(status.code(), Some(0), "{}", service.process.output());
    }
    let registry = model_registry(&services.site, &services.redis.url());
    Service::start("model registry", &registry);
}

/// Runs a case of the group `stops`; `act` does what it asks for.
fn stop_case(gateway: &Gateway, site: &Site, case: &str, act: impl FnMut(&str)) {
    let mut client = services::groups(gateway, &site.secret(), &["stops"]);
    scripts::run_with(client.args(["--case", case]), act);
}

#[test]
fn an_execution_that_runs_when_its_engine_is_told_to_stop_is_finished_first() {
    let mut services = Services::new();
    let case = "an_execution_outlives_the_order_to_stop";
    stop_case(&services.gateway, &services.site, case, |asked| {
        assert_eq!(asked, "the engine is told to stop");
        let engine = &services.engine;
        assert_eq!(page(engine.admin, "/readyz").0, 200);
        engine.process.signal(Signal::TERM);
        let draining = |line: &str| line.contains("draining").then_some(());
        engine.process.error_line("drain", draining);
        assert_eq!(page(engine.admin, "/readyz").0, 503);
        assert_eq!(page(engine.admin, "/livez").0, 200);
    });
    let process = &mut services.engine.process;
    let status = process.wait();
    assert_eq!(status.code(), Some(0), "{}", process.output());
}

#[test]
fn a_router_that_is_killed_fails_the_steps_that_wait_for_it_and_nothing_else() {
    let services = Services::new();
    let case = "a_router_that_is_killed_fails_the_step_alone";
    stop_case(&services.gateway, &services.site, case, |asked| {
        assert_eq!(asked, "the registry is killed");
        services.registry.process.signal(Signal::KILL);
    });
    assert_eq!(page(services.engine.admin, "/livez").0, 200);
}

#[test]
fn without_redis_chains_run_and_their_events_come_when_it_is_back() {
    let Services {
        site,
        mut redis,
        registry: _registry,
        engine: _engine,
        gateway,
    } = Services::new();
    let case = "events_come_late_rather_than_never";
    stop_case(&gateway, &site, case, |asked| match asked {
        "redis is killed" => redis.kill(),
        "redis is started again" => redis.restart(),
        other => panic!("nobody here does {other:?}"),
    });
}

#[test]
fn events_that_redis_does_not_take_before_the_engine_ends_are_told_as_a_number() {
    let Services {
        site,
        mut redis,
        registry: _registry,
        mut engine,
        gateway,
    } = Services::new();
    let case = "chains_run_without_redis";
    stop_case(&gateway, &site, case, |asked| {
        assert_eq!(asked, "redis is killed");
        redis.kill();
    });
    engine.process.signal(Signal::TERM);
    let status = engine.process.wait();
    assert_eq!(status.code(), Some(0), "{}", engine.process.output());
    let lines = engine.process.error_lines();
    let told = lines
        .iter()
        .find(|line| line.contains("events were dropped"));
    // That of the step, and that of the chain.
    assert!(
        told.is_some_and(|line| line.contains("count=2")),
        "{lines:?}"
    );
}

/// The same command, whose process a write beyond the limit of [`bound_files`] does not end.
fn surviving_full_disks(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ && exec \"$@\"", "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

/// From here on no file of the process grows beyond this, in bytes.
fn bound_files(process: &Process, bytes: Option<u64>) {
    let id = i32::try_from(process.id()).unwrap();
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(Pid::from_raw(id), Resource::Fsize, limit).unwrap();
}

#[test]
fn a_service_whose_disk_is_full_is_not_ready_until_it_can_write_again() {
    let services = Services::with(Site::new(), Redis::start(), |registry| {
        *registry = surviving_full_disks(registry);
    });
    let Service { process, admin, .. } = &services.registry;
    let case = "a_full_disk_refuses_what_must_be_kept";
    stop_case(
        &services.gateway,
        &services.site,
        case,
        |asked| match asked {
            "the disk is full" => bound_files(process, Some(0)),
            "the disk has room again" => {
                let (status, why) = page(*admin, "/readyz");
                assert!(status == 503 && why.contains("database"), "{status} {why}");
                assert_eq!(page(*admin, "/livez").0, 200);
                bound_files(process, None);
                // It tries by itself, every 5 seconds.
                while page(*admin, "/readyz").0 != 200 {}
            }
            other => panic!("nobody here does {other:?}"),
        },
    );
}

/// The text of the key `lent`.
const LENT: &str = "sk-lent-by-the-operator";

#[test]
fn a_key_that_the_operator_lends_goes_to_its_origin_alone() {
    let endpoint = Process::spawn("model server", &python("model_server.py"));
    let port = endpoint.line("port", |line| json(line)["port"].as_u64());
    let services = Services::with(Site::new(), Redis::start(), |registry| {
        let key = format!("lent=http://127.0.0.1:{port},env=LENT_KEY");
        registry.args(["--api-key", &key]).env("LENT_KEY", LENT);
    });
    let secret = services.site.secret();
    let mut client = services::groups(&services.gateway, &secret, &["keys"]);
    client.args(["--endpoint", &format!("http://127.0.0.1:{port}/v1")]);
    scripts::run_alone(&client);
    let sent = endpoint.line("a request", |line| {
        json(line)["authorization"].as_str().map(str::to_owned)
    });
    assert_eq!(sent, format!("Bearer {LENT}"));
    let said = services.registry.process.error_lines().join("\n");
    assert!(!said.contains(LENT), "the key is in the log");
}
