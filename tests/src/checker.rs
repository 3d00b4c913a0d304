//! Checks the event plane in the manner of Jepsen: many publish and follow while a nemesis kills, stops and cuts the
//! parts; afterwards what everybody saw is judged as a whole.
//!
//! - `run` puts a run together and gives its [`history`](history::History): `cluster` has the parts, `nemesis` the
//!   faults, `publishers` and `subscribers` speak what users speak.
//! - `analysis` judges it, and knows nothing of how it came about.
//! - `bugs` and `seam` prove that the checker finds what it is there for.
//!
//! Every random choice comes from one seed. Which events meet which fault is also a matter of time, so the same seed
//! makes the same faults in the same order, not the same history; that is kept as text when it is not good.

pub mod analysis;
pub mod bugs;
pub mod cluster;
pub mod history;
pub mod nemesis;
mod payload;
pub mod publishers;
pub mod report;
pub mod run;
pub mod seam;
pub mod subscribers;
pub mod wire;
