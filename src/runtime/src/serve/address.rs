//! Listening addresses in Go's notation.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel keeps until they are accepted; its own bound (`net.core.somaxconn`) holds too. With the 128 of the standard library a burst of webhooks
/// loses connections, and who lost one tries again after a second.
const BACKLOG: u32 = 4_096;

/// Where a server listens, in Go's notation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The server is switched off.
    Off,
    /// Host and port; an empty host stands for all interfaces, port 0 for any free port.
    At {
        /// Name or IP address, without brackets.
        host: String,
        /// TCP port.
        port: u16,
    },
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Not of the form `host:port`.
    #[error("{0:?} is not an address: write host:port or :port")]
    Syntax(String),
    /// The operating system refused the address.
    #[error("could not listen on {address}")]
    Bind {
        /// The address as text.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Address {
    /// Reads `host:port`, `:port`, `[v6]:port`; `0` is [`Address::Off`]; the empty text stands for `default`, which may be empty for off.
    ///
    /// # Errors
    /// [`AddressError::Syntax`].
    pub fn parse(text: &str, default: &str) -> Result<Self, AddressError> {
        let text = if text.is_empty() { default } else { text };
        if text.is_empty() || text == "0" {
            return Ok(Self::Off);
        }
        let parsed = || {
            let (host, port) = text.rsplit_once(':')?;
            let port = port.parse().ok()?;
            let host = match host.strip_prefix('[') {
                Some(bracketed) => bracketed.strip_suffix(']')?,
                None if host.contains(':') => return None,
                None => host,
            };
            Some(Self::At {
                host: host.to_owned(),
                port,
            })
        };
        parsed().ok_or_else(|| AddressError::Syntax(text.to_owned()))
    }

    /// Opens the port; `None` when the server is off. An empty host listens on IPv6 and IPv4, or on IPv4 where there is no IPv6.
    ///
    /// # Errors
    /// [`AddressError::Bind`].
    pub async fn listen(&self) -> Result<Option<TcpListener>, AddressError> {
        let Self::At { host, port } = self else {
            return Ok(None);
        };
        let port = *port;
        let bound = if host.is_empty() {
            match listen_at("::", port).await {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => listen_at("0.0.0.0", port).await,
                bound => bound,
            }
        } else {
            listen_at(host, port).await
        };
        let address = || {
            if host.contains(':') {
                format!("[{host}]:{port}")
            } else {
                format!("{host}:{port}")
            }
        };
        bound.map(Some).map_err(|source| AddressError::Bind {
            address: address(),
            source,
        })
    }
}

/// Listens at the first of a host's addresses that can be had.
async fn listen_at(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut last = None;
    for address in tokio::net::lookup_host((host, port)).await? {
        match listen_on(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host has no address")))
}

/// Listens with a queue that a burst fits into.
fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // As the standard library: a restart need not wait for old connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
