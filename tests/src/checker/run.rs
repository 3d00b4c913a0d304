//! One run: puts the parts together, lets them meet the nemesis, and gives the history.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::bugs::BUGS;
use super::cluster::{Cluster, Retain, Store};
use super::history::{Clock, Fault, History, Loss, Moment, Publish, Stream, Via};
use super::nemesis::{Step, actions, step};
use super::publishers::Publisher;
use super::seam::Seam;
use super::subscribers::{Dialect, Habit, Phase, Shared, Subscriber};
use super::wire::Entrance;

/// How long after the load subscribers may need to see the last words.
const ENDING: Duration = Duration::from_secs(40);
/// Before anything is published all recorders have heard each other.
const BEGINNING: Duration = Duration::from_millis(2500);
/// A machine that stands still for so long may make a gateway give up a connection.
const STALL: Duration = Duration::from_secs(1);

/// What a run is like.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of every random choice.
    pub seed: u64,
    /// How long events are published.
    pub length: Duration,
    /// Where they are kept.
    pub store: Store,
    /// How much of them.
    pub retain: Retain,
    /// Whether the nemesis does what can destroy data.
    pub harmful: bool,
    /// What the nemesis does, instead of what chance says; the last step ends the load.
    pub script: Option<&'static [Step]>,
    /// Adds a subscriber for each of the seeded bugs, behind a seam that has it.
    pub seams: bool,
}

impl Settings {
    /// A run with faults.
    pub fn new(seed: u64, length: Duration, store: Store, harmful: bool) -> Self {
        Self {
            seed,
            length,
            store,
            retain: Retain::Plenty,
            harmful,
            script: None,
            seams: false,
        }
    }
}

/// Runs it; gives what happened. Must be called from a thread that starts no other run meanwhile.
pub fn run(settings: &Settings) -> History {
    let mut chance = StdRng::seed_from_u64(settings.seed);
    let mut cluster = Cluster::start(settings.store, settings.retain);
    let runtime = Runtime::new().expect("a runtime starts");
    let (phase, watching) = watch::channel(Phase::Load);
    let clock = Clock::new();
    let cast = Cast::new(settings, &cluster);
    let token = cluster.site.token(&["tester"]);
    let shared = Arc::new(Shared {
        clock,
        entrance: Entrance::new(&cluster.site.certs.path("ca.crt"), &token),
        phase: watching,
        channels: cast.channels.clone(),
        last_words: cast.last_words(),
    });
    let wait = |length| runtime.block_on(async move { tokio::time::sleep(length).await });
    let stalls = runtime.spawn(watch_stalls(Arc::clone(&shared)));
    let streams = runtime.block_on(cast.subscribe(settings, &cluster, &shared, &mut chance));
    wait(BEGINNING);
    let publishing = {
        let _guard = runtime.enter();
        cast.publish(settings, &cluster, &shared, &mut chance)
    };

    let (began, mut faults) = (Instant::now(), Vec::new());
    let kinds = actions(settings.store, settings.harmful);
    for step in settings.script.into_iter().flatten() {
        faults.push(step.perform(&mut cluster, clock, wait));
    }
    while settings.script.is_none() && began.elapsed() < settings.length {
        let step = step(&kinds, cluster.gateways(), &mut chance);
        faults.push(step.perform(&mut cluster, clock, wait));
    }
    wait(settings.length.saturating_sub(began.elapsed()));
    phase.send_replace(Phase::Ending);

    let streams = runtime.block_on(finish(streams, &phase));
    let publishes = runtime.block_on(async {
        let mut all = Vec::new();
        for publisher in publishing {
            all.extend(publisher.await.expect("a publisher ends"));
        }
        all
    });
    faults.extend(runtime.block_on(stalls).expect("the watch ends"));
    faults.sort_by_key(|fault| fault.from);
    History {
        channels: cast.channels,
        publishers: cast.publishers,
        publishes,
        streams,
        faults,
        retention: settings.retain.retention(),
    }
}

/// Who takes part.
struct Cast {
    channels: Vec<String>,
    /// The last ones have the last words.
    publishers: Vec<Via>,
    last_words: usize,
}

impl Cast {
    fn new(settings: &Settings, cluster: &Cluster) -> Self {
        let names = ["alpha", "beta", "gamma", "end"];
        let channels = names.map(|name| format!("intellirouter:chain_engine:checker:{name}"));
        let everybody = [
            Via::Post,
            Via::Post,
            Via::Grpc,
            Via::Library,
            Via::Library,
            Via::Plain,
            Via::Plain,
            Via::Plain,
        ];
        let in_redis = |via: &Via| matches!(via, Via::Library | Via::Plain);
        let last = if cluster.store_door().is_some() {
            vec![Via::Library, Via::Plain]
        } else {
            vec![Via::Post]
        };
        let here = everybody
            .into_iter()
            .filter(|via| settings.store != Store::Memory || !in_redis(via));
        let publishers = here.chain(last.iter().copied()).collect();
        Self {
            channels: channels.into(),
            publishers,
            last_words: last.len(),
        }
    }

    /// The channel that only last words are on.
    fn end(&self) -> usize {
        self.channels.len() - 1
    }

    fn last_words(&self) -> Vec<u16> {
        let first = self.publishers.len() - self.last_words;
        (first..self.publishers.len())
            .map(|index| u16::try_from(index).expect("few publish"))
            .collect()
    }

    fn publish(
        &self,
        settings: &Settings,
        cluster: &Cluster,
        shared: &Arc<Shared>,
        chance: &mut StdRng,
    ) -> Vec<JoinHandle<Vec<Publish>>> {
        let publishers = self.publishers.iter().zip(0..).map(|(via, index)| {
            let last = shared.last_words.contains(&index);
            let publisher = Publisher {
                index,
                via: *via,
                channels: if last {
                    vec![self.end()]
                } else {
                    (0..self.end()).collect()
                },
                doors: match via {
                    Via::Post | Via::Grpc => cluster.doors(),
                    Via::Library | Via::Plain => {
                        vec![cluster.store_door().expect("there is a Redis")]
                    }
                },
                url: cluster.store_url().unwrap_or_default(),
                large: match settings.retain {
                    Retain::Small => 12,
                    Retain::Plenty | Retain::Brief => 50,
                },
                pause: if last { 600 } else { 60 },
                until: if last { Phase::Over } else { Phase::Ending },
                seed: chance.random(),
            };
            tokio::spawn(speak(publisher, Arc::clone(shared), last))
        });
        publishers.collect()
    }

    async fn subscribe(
        &self,
        settings: &Settings,
        cluster: &Cluster,
        shared: &Arc<Shared>,
        chance: &mut StdRng,
    ) -> Vec<JoinHandle<Stream>> {
        let mut subscribers = Vec::new();
        for dialect in [Dialect::Sse, Dialect::Ndjson, Dialect::Grpc] {
            let everything: Vec<usize> = (0..=self.end()).collect();
            let mut kinds = vec![
                (everything.clone(), Habit::Restless),
                (everything.clone(), Habit::Steady),
                (vec![0, self.end()], Habit::Restless),
            ];
            // Where it is of no use to come back too late, some do.
            if settings.retain != Retain::Plenty {
                kinds[2] = (vec![0, self.end()], Habit::Dozing);
                kinds.push((everything, Habit::Stalling));
            }
            for (channels, habit) in kinds {
                subscribers.push(Subscriber {
                    name: format!("{dialect:?} {channels:?} {habit:?}"),
                    dialect,
                    channels,
                    doors: cluster.doors(),
                    habit,
                    seed: chance.random(),
                });
            }
        }
        for bug in BUGS.into_iter().filter(|_| settings.seams) {
            let door = cluster.doors()[0];
            let seam = Seam::start(
                &cluster.site.certs,
                &shared.entrance,
                door,
                bug,
                chance.random(),
            )
            .await;
            subscribers.push(Subscriber {
                name: format!("{bug:?}"),
                dialect: Dialect::Sse,
                channels: (0..=self.end()).collect(),
                doors: vec![seam.port],
                habit: Habit::Steady,
                seed: chance.random(),
            });
        }
        let following = subscribers
            .into_iter()
            .map(|one| tokio::spawn(one.follow(Arc::clone(shared))));
        following.collect()
    }
}

/// Publishes; last words only when all the others have published theirs.
async fn speak(publisher: Publisher, shared: Arc<Shared>, last: bool) -> Vec<Publish> {
    if last {
        let mut phase = shared.phase.clone();
        let _ = phase.wait_for(|phase| *phase >= Phase::Ending).await;
    }
    publisher.publish_all(shared).await
}

/// Waits until every subscriber has seen the last words, or it has taken too long; then all is over.
async fn finish(streams: Vec<JoinHandle<Stream>>, phase: &watch::Sender<Phase>) -> Vec<Stream> {
    let all = futures_util::future::join_all(streams);
    tokio::pin!(all);
    let in_time = tokio::time::timeout(ENDING, &mut all).await;
    phase.send_replace(Phase::Over);
    let ended = match in_time {
        Ok(ended) => ended,
        Err(_) => all.await,
    };
    ended
        .into_iter()
        .map(|stream| stream.expect("a subscriber ends"))
        .collect()
}

/// Notes when this process got no time to run: then the gateways may have got none.
async fn watch_stalls(shared: Arc<Shared>) -> Vec<Fault> {
    let (mut phase, mut stalls) = (shared.phase.clone(), Vec::new());
    let mut before: Moment = shared.clock.now();
    while *phase.borrow_and_update() < Phase::Over {
        let _ = tokio::time::timeout(Duration::from_millis(100), phase.changed()).await;
        let now = shared.clock.now();
        if now - before > STALL {
            let what = format!("the machine stood still for {:?}", now - before);
            let until = now + BEGINNING;
            stalls.push(Fault {
                what,
                loss: Loss::Plain,
                from: before,
                until,
            });
        }
        before = now;
    }
    stalls
}
