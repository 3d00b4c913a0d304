//! A child process that can't outlive its test.
//!
//! Owns the process group and the lines that it writes. A child is killed
//! with its whole group when its [`Process`] is dropped, and by the kernel
//! when the thread that started it ends in any other way (`setpriv
//! --pdeathsig`). All output is kept, for the message of a test that fails;
//! at most 200,000 lines per stream, after which a child is a runaway and its
//! test fails.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::DEADLINE;

const MAX_LINES: usize = 200_000;
/// How much of its output stands in the message of a failed test, in lines.
const SHOWN_LINES: usize = 40;

#[derive(Default)]
struct Lines {
    state: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Lines {
    fn read(self: &Arc<Self>, stream: impl Read + Send + 'static) {
        let lines = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let mut state = lines.state.lock().unwrap();
                if state.0.len() == MAX_LINES {
                    break;
                }
                state.0.push(String::from_utf8_lossy(&line).into_owned());
                lines.changed.notify_all();
            }
            lines.state.lock().unwrap().1 = true;
            lines.changed.notify_all();
        });
    }

    /// Calls `find` with each line from the first on until it gives something.
    /// `None` after `timeout`, or when the stream has ended.
    fn find<T>(
        &self,
        from: usize,
        timeout: Duration,
        mut find: impl FnMut(usize, &str) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + timeout;
        let mut next = from;
        let mut state = self.state.lock().unwrap();
        loop {
            while let Some(line) = state.0.get(next) {
                if let Some(found) = find(next, line) {
                    return Some(found);
                }
                next += 1;
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.1 || left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    fn wait_for_end(&self) {
        let state = self.state.lock().unwrap();
        drop(
            self.changed
                .wait_timeout_while(state, DEADLINE, |state| !state.1)
                .unwrap(),
        );
    }

    fn all(&self) -> Vec<String> {
        self.state.lock().unwrap().0.clone()
    }

    fn tail(&self) -> String {
        let all = self.all();
        all[all.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

/// A running child; see the module's comment.
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
    /// The stdout lines that [`Process::next_line`] has given out.
    taken: usize,
}

impl Process {
    /// Starts a command, with `name` for messages.
    pub fn spawn(name: &str, command: &Command) -> Self {
        let mut guarded = Command::new("setpriv");
        guarded
            .args(["--pdeathsig", "KILL", "--"])
            .arg(command.get_program());
        guarded.args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => guarded.env(key, value),
                None => guarded.env_remove(key),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            guarded.current_dir(dir);
        }
        let mut child = guarded
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}; has tests/setup been run?"));
        let (stdout, stderr) = (Arc::<Lines>::default(), Arc::<Lines>::default());
        stdout.read(child.stdout.take().expect("stdout is piped"));
        stderr.read(child.stderr.take().expect("stderr is piped"));
        Self {
            name: name.into(),
            stdin: child.stdin.take(),
            child,
            stdout,
            stderr,
            taken: 0,
        }
    }

    /// Runs a command to its end; gives its status, stdout and stderr.
    pub fn run(name: &str, command: &Command) -> (ExitStatus, String, String) {
        let mut process = Self::spawn(name, command);
        process.stdin = None;
        let status = process.wait();
        let (out, err) = (process.stdout.all(), process.stderr.all());
        (status, out.join("\n"), err.join("\n"))
    }

    /// Waits for the first line on stdout, old or new, for which `find` gives
    /// something.
    pub fn line<T>(&self, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> T {
        self.stdout
            .find(0, DEADLINE, |_, line| find(line))
            .unwrap_or_else(|| panic!("{}: no {what}\n{}", self.name, self.output()))
    }

    /// As [`Process::line`], on stderr.
    pub fn error_line<T>(&self, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> T {
        self.stderr
            .find(0, DEADLINE, |_, line| find(line))
            .unwrap_or_else(|| panic!("{}: no {what} on stderr\n{}", self.name, self.output()))
    }

    /// The next line on stdout that was not given out yet; `None` at the end
    /// of stdout.
    pub fn next_line(&mut self) -> Option<String> {
        let line = self
            .stdout
            .find(self.taken, DEADLINE, |_, line| Some(line.to_owned()));
        if line.is_none() && !self.stdout.state.lock().unwrap().1 {
            panic!(
                "{}: no line within {DEADLINE:?}\n{}",
                self.name,
                self.output()
            );
        }
        self.taken += usize::from(line.is_some());
        line
    }

    /// All lines written to stdout so far.
    pub fn lines(&self) -> Vec<String> {
        self.stdout.all()
    }

    /// All lines written to stderr so far.
    pub fn error_lines(&self) -> Vec<String> {
        self.stderr.all()
    }

    /// The end of both streams, for messages.
    pub fn output(&self) -> String {
        format!(
            "--- stdout\n{}\n--- stderr\n{}",
            self.stdout.tail(),
            self.stderr.tail()
        )
    }

    /// Writes a line to the child's stdin.
    pub fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        writeln!(stdin, "{line}")
            .and_then(|()| stdin.flush())
            .expect("the child reads its stdin");
    }

    /// Sends a signal to the child alone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the child is there");
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for the child to end by itself, and for all that it wrote.
    pub fn wait(&mut self) -> ExitStatus {
        // Closed stdout is what tells the end; a child may close it earlier, so
        // the status is then polled for.
        self.stdout.wait_for_end();
        self.stderr.wait_for_end();
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            let late = Instant::now() > end;
            assert!(
                !late,
                "{}: still runs after {DEADLINE:?}\n{}",
                self.name,
                self.output()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the child and its group at once, and waits until it is gone.
    pub fn kill(&mut self) {
        // Fails only when the group is gone, which is what is wanted.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
