//! A TLS connection on a plain socket: first blocking, for the handshake and the
//! request, then driven by whoever waits for its descriptor.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;

use crate::{Error, tls};

/// How long the handshake and the answer to a request may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where to connect, and how.
pub struct Tls {
    to: SocketAddr,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Connections that speak `alpn` alone.
    ///
    /// # Errors
    /// If the file cannot be read or does not hold what it should.
    pub fn new(to: SocketAddr, ca: &Path, alpn: &str) -> Result<Self, Error> {
        let mut config = tls::client(ca, None)?;
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let name = ServerName::try_from("localhost")?;
        Ok(Self {
            to,
            config: Arc::new(config),
            name,
        })
    }

    /// Connects, shakes hands, and sends `hello`.
    ///
    /// # Errors
    /// If nobody answers there, or not with TLS.
    pub fn connect(&self, hello: &[u8]) -> Result<Link, Error> {
        let socket = TcpStream::connect_timeout(&self.to, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut tls = ClientConnection::new(self.config.clone(), self.name.clone())?;
        // What is sent at once is bounded by whoever sends it.
        tls.set_buffer_limit(None);
        let mut link = Link { socket, tls };
        while link.tls.is_handshaking() {
            link.tls.complete_io(&mut link.socket)?;
        }
        link.write(hello)?;
        Ok(link)
    }
}

/// See the module's comment.
pub struct Link {
    socket: TcpStream,
    tls: ClientConnection,
}

/// Whether more may come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Open {
    Yes,
    No,
}

impl Link {
    /// From now on nothing blocks.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn unblock(&self) -> io::Result<()> {
        self.socket.set_nonblocking(true)
    }

    /// Sends all of it; waits for room where there is none.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.writer().write_all(bytes)?;
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                written => drop(written?),
            }
        }
        Ok(())
    }

    /// Reads once from the socket, through `buffer`, and hands on what it meant.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        mut take: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<Open, Error> {
        let got = match self.socket.read(buffer) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Open::Yes),
            // What a server that gives up a connection does; the caller counts it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Open::No),
            Err(error) => return Err(error.into()),
        };
        let mut rest = &buffer[..got];
        let mut open = if got == 0 { Open::No } else { Open::Yes };
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest)?;
            if self.tls.process_new_packets()?.peer_has_closed() {
                open = Open::No;
            }
            loop {
                let mut reader = self.tls.reader();
                let plain = match reader.fill_buf() {
                    Ok(plain) if !plain.is_empty() => plain,
                    _ => break,
                };
                take(plain)?;
                let length = plain.len();
                reader.consume(length);
            }
        }
        Ok(open)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
