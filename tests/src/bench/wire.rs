//! A load generator that costs as little as possible: requests are rendered beforehand, and connections are plain
//! HTTP/1.1 with one request at a time. What it spends is not there for the server on the same machine.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::{demo::Spread, github::SignedDelivery};

/// Longest head of an answer.
const HEAD: usize = 16 * 1024;

/// A request as it goes over the wire.
pub(super) fn render(address: SocketAddr, delivery: &SignedDelivery) -> Bytes {
    let body = &delivery.delivery.body;
    let mut request = format!(
        "POST / HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in delivery.header_pairs() {
        request.push_str(name);
        request.push_str(": ");
        request.push_str(&value);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    let mut bytes = request.into_bytes();
    bytes.extend_from_slice(body);
    Bytes::from(bytes)
}

/// A keep-alive connection.
#[derive(Debug)]
pub(super) struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            stream: None,
            buffer: Vec::new(),
        }
    }

    /// Sends a request and reads the whole answer; its status code. The next call connects anew after an error.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> Result<u16> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address)
                    .await
                    .context("could not connect")?;
                stream.set_nodelay(true).context("could not set TCP_NODELAY")?;
                stream
            }
        };
        stream.write_all(request).await.context("could not send")?;
        self.buffer.clear();
        let (status, total, closes) = loop {
            if let Some(head) = parse(&self.buffer)? {
                break head;
            }
            if self.buffer.len() > HEAD {
                bail!("the answer's head does not end");
            }
            if stream
                .read_buf(&mut self.buffer)
                .await
                .context("could not read")?
                == 0
            {
                bail!("the connection was closed");
            }
        };
        while self.buffer.len() < total {
            if stream
                .read_buf(&mut self.buffer)
                .await
                .context("could not read")?
                == 0
            {
                bail!("the answer broke off");
            }
        }
        if !closes {
            self.stream = Some(stream);
        }
        Ok(status)
    }
}

/// Status code, length of head and body together, and whether the server closes; `None` while the head is not
/// complete.
fn parse(answer: &[u8]) -> Result<Option<(u16, usize, bool)>> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = answer.get(..end).unwrap_or_default();
    let head = std::str::from_utf8(head).context("the answer's head is no text")?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .context("the answer has no status")?;
    let (mut length, mut closes) = (0, false);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().context("the answer's length is no number")?;
        } else if name.eq_ignore_ascii_case("connection") {
            closes = value.trim().eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            bail!("chunked answers are not expected");
        }
    }
    Ok(Some((status, end + 4 + length, closes)))
}

/// What came of a number of requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Load {
    /// Time of every exchange, in microseconds.
    pub(super) latencies: Vec<u64>,
    /// Answers by status code; 0 stands for none.
    pub(super) statuses: BTreeMap<u16, usize>,
    /// From the first request to the last answer.
    pub(super) elapsed: Duration,
}

impl Load {
    pub(super) fn note(&mut self, began: Instant, status: u16) {
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.latencies.push(micros);
        *self.statuses.entry(status).or_default() += 1;
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
    }

    /// Exchanges per second.
    pub(super) fn rate(&self) -> f64 {
        let count = u32::try_from(self.latencies.len()).unwrap_or(u32::MAX);
        f64::from(count) / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Answers with another status than `expected`.
    pub(super) fn unexpected(&self, expected: u16) -> usize {
        let others = self.statuses.iter().filter(|(status, _)| **status != expected);
        others.map(|(_, count)| count).sum()
    }

    /// Times in microseconds.
    pub(super) fn spread(&self) -> Spread {
        Spread::of(self.latencies.clone())
    }
}

/// Sends every list over a connection of its own, each request after the answer to the one before.
pub(super) async fn closed_loop(address: SocketAddr, lists: Vec<Vec<Bytes>>) -> Result<Load> {
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for list in lists {
        workers.spawn(async move {
            let (mut connection, mut load) = (Connection::new(address), Load::default());
            for request in list {
                let began = Instant::now();
                let status = connection.exchange(&request).await.unwrap_or(0);
                load.note(began, status);
            }
            load
        });
    }
    let mut all = Load::default();
    while let Some(load) = workers.join_next().await {
        all.merge(load.context("a connection's task failed")?);
    }
    all.elapsed = begun.elapsed();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_parsed() {
        let answer =
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        assert_eq!(parse(answer).unwrap(), Some((503, answer.len(), true)));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n").unwrap(), None);
        assert!(parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
