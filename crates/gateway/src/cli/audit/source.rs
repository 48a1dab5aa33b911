//! Where the record is read: from the files on this machine, or through a gateway.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use portcullis_audit::{AuditReader, Stored};
use portcullis_search::{Follower, Indexer, MOST_HITS, Query, Searcher};
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use super::{KeyArgs, find_log, unsearchable};
use crate::{
    api::audit::{Found, RecordView},
    cli::{CliError, Failure},
    client::{ClientError, Gateway, GatewayArgs},
};

const PATH: &str = "/portcullis/api/v1/audit";
/// How often a log that is a file is looked at: it has no way to call us, and lies perhaps on another machine's disk.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// Read the log in this directory, rather than ask a gateway
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    ledger: Option<PathBuf>,
    /// Read the log of this gateway configuration, rather than ask a gateway
    #[arg(long, short, env = "PORTCULLIS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    gateway: GatewayArgs,
}

/// A record that can be read.
pub(crate) enum Source {
    Files(AuditReader),
    Gateway(Gateway),
}

impl SourceArgs {
    pub(crate) async fn open(&self) -> Result<Source, CliError> {
        match find_log(self.ledger.as_deref(), self.config.as_deref(), &self.keys)? {
            Some((dir, keys)) => Ok(Source::Files(AuditReader::new(dir).body_keys(keys))),
            None => Ok(Source::Gateway(self.gateway.connect().await?)),
        }
    }
}

impl Source {
    /// The newest records that match, older than `before`.
    pub(crate) async fn search(
        &self,
        query: &Query,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Found, CliError> {
        match self {
            Self::Files(reader) => {
                // Where no gateway keeps the index up to date, we do.
                if let Ok(mut indexer) = Indexer::open(reader.dir()).await {
                    super::reindex::catch_up(&mut indexer, reader).await?;
                }
                let page = Searcher::new(reader.clone())
                    .search(query, before, limit, u64::MAX)
                    .await
                    .map_err(unsearchable)?;
                let items = page.hits.into_iter().map(RecordView::of).collect();
                Ok(Found { items, next: page.next, freshness: page.freshness })
            }
            Self::Gateway(gateway) => {
                let mut path = format!("{PATH}/search?limit={limit}&{}", encoded("q", &query.to_string()));
                if let Some(before) = before {
                    path.push_str(&format!("&before={before}"));
                }
                Ok(gateway.get(&path).await?)
            }
        }
    }

    /// The record `index`, if there is one.
    pub(crate) async fn record(&self, index: u64) -> Result<Option<Stored>, CliError> {
        match self {
            Self::Files(reader) => {
                let mut records = reader.records(index).map_err(super::unreadable)?;
                Ok(records.next().transpose().map_err(super::unreadable)?)
            }
            Self::Gateway(gateway) => {
                match gateway.get::<RecordView>(&format!("{PATH}/records/{index}")).await {
                    Ok(view) => Ok(Some(stored(view))),
                    Err(ClientError::Refused { status, .. }) if status == http::StatusCode::NOT_FOUND => {
                        Ok(None)
                    }
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// The newest `lines` records that match, and those that come, if they are to be followed.
    pub(crate) async fn tail(
        &self,
        query: Query,
        intents: bool,
        lines: usize,
        follow: bool,
        mut each: impl FnMut(&Stored) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        match self {
            Self::Files(reader) => {
                let newest = Follower::newest(reader.clone(), query, intents, lines, u64::MAX, u64::MAX);
                let (newest, mut follower) = newest.await.map_err(unsearchable)?;
                newest.iter().try_for_each(&mut each)?;
                if !follow {
                    return Ok(());
                }
                loop {
                    let more = follower.more(u64::MAX).await.map_err(unsearchable)?;
                    more.iter().try_for_each(&mut each)?;
                    if more.is_empty() {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
            Self::Gateway(gateway) if follow => {
                let query = encoded("q", &query.to_string());
                let path = format!("{PATH}/tail?lines={lines}&intents={intents}&{query}");
                let mut answer = std::pin::pin!(gateway.lines(&path).await?);
                while let Some(line) = line(&mut answer).await? {
                    each(&stored(serde_json::from_slice(&line)?))?;
                }
                let why = "the gateway ended it: it stops, or cannot read its record; follow again";
                Err(Failure::new(69, why).into())
            }
            Self::Gateway(_) if intents => {
                let why = "a gateway shows intents with --follow only; `search` finds them by `id:`, --ledger and --config read them from files";
                Err(Failure::usage(why).into())
            }
            Self::Gateway(_) if lines == 0 => Ok(()),
            Self::Gateway(_) => {
                let found = self.search(&query, None, lines.min(MOST_HITS)).await?;
                for view in found.items.into_iter().rev() {
                    each(&stored(view))?;
                }
                Ok(())
            }
        }
    }
}

/// The longest line that is read: a record has less.
const MOST_LINE: usize = 256 * 1024;

async fn line(answer: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Vec<u8>>, CliError> {
    let mut line = Vec::new();
    loop {
        let bytes = answer.fill_buf().await?;
        let end = bytes.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
        let (read, over) = (end.map_or(bytes.len(), |end| end + 1), bytes.is_empty());
        answer.consume(read);
        if line.len() > MOST_LINE {
            return Err(Failure::new(1, "the gateway sent a line that is no record").into());
        }
        if end.is_some() || over {
            return Ok((!over || !line.is_empty()).then_some(line));
        }
    }
}

/// A record as it came, also one that this version does not understand.
pub(crate) fn stored(view: RecordView) -> Stored {
    Stored::new(view.index, 0, view.record.get().as_bytes().to_vec())
}

fn encoded(name: &str, value: &str) -> String {
    url::form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish()
}
