//! Listening addresses in Go's notation.

use std::io;

use tokio::net::TcpListener;

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
            match TcpListener::bind(("::", port)).await {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    TcpListener::bind(("0.0.0.0", port)).await
                }
                bound => bound,
            }
        } else {
            TcpListener::bind((host.as_str(), port)).await
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
