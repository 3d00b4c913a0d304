//! `PUBLISH` by hand, as anyone could.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::Answer;
use crate::checker::history::Outcome;
use crate::checker::wire::within;

const PATIENCE: Duration = Duration::from_secs(15);

/// A connection to Redis, made again when it is lost.
pub(super) struct Plain {
    port: u16,
    connection: Option<BufReader<TcpStream>>,
}

impl Plain {
    pub(super) fn new(port: u16) -> Self {
        Self {
            port,
            connection: None,
        }
    }

    pub(super) async fn publish(&mut self, channel: &str, payload: &str) -> Answer {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match TcpStream::connect(("127.0.0.1", self.port)).await {
                Ok(stream) => BufReader::new(stream),
                Err(_) => return Answer::Refused,
            },
        };
        // Longer than Redis is ever stopped: what is sent may be carried out as long as nobody knows.
        let Ok(line) = within("answer", PATIENCE, ask(&mut connection, channel, payload)).await
        else {
            return Answer::Unsure;
        };
        self.connection = Some(connection);
        match line.trim_end().strip_prefix(':').map(str::parse::<u64>) {
            // Nobody heard it, so nobody can have recorded it.
            Some(Ok(0)) => Answer::Refused,
            Some(Ok(_)) => Answer::Done(Outcome::Acknowledged(None)),
            _ if line.starts_with('-') => Answer::Refused,
            _ => Answer::Unsure,
        }
    }
}

async fn ask(
    connection: &mut BufReader<TcpStream>,
    channel: &str,
    payload: &str,
) -> io::Result<String> {
    let command = format!(
        "*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n{payload}\r\n",
        channel.len(),
        payload.len()
    );
    connection.get_mut().write_all(command.as_bytes()).await?;
    let mut line = String::new();
    match connection.read_line(&mut line).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line),
    }
}
