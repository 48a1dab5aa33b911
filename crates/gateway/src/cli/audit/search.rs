//! `portcullis audit search`.

use anstream::{eprintln, println};
use clap::{Args, ValueEnum};
use portcullis_audit::{Record, Stored};
use portcullis_search::Freshness;

use super::{parse, query_help, source::SourceArgs, source::stored};
use crate::cli::{
    CliError,
    output::{DIM, PLAIN, json, printable, table, yaml},
};

#[derive(Debug, Args)]
#[command(after_help = query_help())]
pub(crate) struct SearchArgs {
    /// What to look for; everything, if nothing is said
    query: Vec<String>,
    /// How many records at most
    #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Only records older than this one: the next page
    #[arg(long, value_name = "INDEX")]
    before: Option<u64>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = SearchFormat::Table, value_name = "FORMAT")]
    output: SearchFormat,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SearchFormat {
    Table,
    Json,
    Yaml,
    Csv,
}

/// The most that is asked for at once.
const PAGE: u64 = 1000;

pub(super) async fn search(args: SearchArgs) -> Result<u8, CliError> {
    let query = parse(&args.query)?;
    let source = args.source.open().await?;
    let (mut found, mut before, mut freshness) = (Vec::new(), args.before, None::<Freshness>);
    loop {
        let rest = args.limit - found.len() as u64;
        let page = source.search(&query, before, usize::try_from(rest.min(PAGE)).unwrap_or(1)).await?;
        freshness.get_or_insert(page.freshness);
        for view in page.items {
            found.push(stored(view));
        }
        before = page.next;
        if before.is_none() || found.len() as u64 >= args.limit {
            break;
        }
    }
    match args.output {
        SearchFormat::Table => print_table(&found, before, freshness),
        SearchFormat::Json => println!("{}", json(&whole(&found)?)?),
        SearchFormat::Yaml => anstream::print!("{}", yaml(&whole(&found)?)?),
        SearchFormat::Csv => print_csv(&found),
    }
    Ok(0)
}

/// The records as they stand in the log, each with its index.
fn whole(found: &[Stored]) -> Result<Vec<serde_json::Value>, CliError> {
    let one = |stored: &Stored| {
        let mut record: serde_json::Value = serde_json::from_slice(&stored.raw)?;
        if let Some(fields) = record.as_object_mut() {
            fields.insert("index".to_owned(), stored.index.into());
        }
        Ok(record)
    };
    found.iter().map(one).collect()
}

/// When, who, what, what came of it.
struct Row {
    time: String,
    who: String,
    what: String,
    result: String,
    took: String,
}

impl Row {
    fn of(stored: &Stored) -> Self {
        let time = format!("{:.0}", stored.entry.time);
        match &stored.entry.record {
            Record::Outcome(outcome) => {
                let status = outcome.status.map(|status| status.to_string());
                let exit = outcome.stream.as_ref().and_then(|stream| stream.exit);
                let refusal = outcome.refusal.as_ref().map(|refusal| refusal.code.clone());
                let end = (outcome.end != portcullis_audit::End::Completed)
                    .then(|| outcome.end.as_str().to_owned());
                let parts = [status, exit.map(|exit| format!("exit {exit}")), end, refusal];
                let took = stored.entry.time.duration_since(outcome.received).as_secs_f64();
                Self {
                    time,
                    who: outcome.user.clone().unwrap_or_else(|| "-".into()),
                    what: outcome.command.clone(),
                    result: parts.into_iter().flatten().collect::<Vec<_>>().join(" "),
                    took: if took < 10.0 {
                        format!("{:.0} ms", took * 1000.0)
                    } else {
                        format!("{took:.0} s")
                    },
                }
            }
            record => {
                let who = match record {
                    Record::Event(event) => event.identity.as_ref().map(|identity| identity.user.clone()),
                    _ => None,
                };
                // A line is when, who, what.
                let what = stored.entry.line().splitn(3, "  ").nth(2).unwrap_or_default().to_owned();
                Self {
                    time,
                    who: who.unwrap_or_else(|| "-".into()),
                    what,
                    result: String::new(),
                    took: String::new(),
                }
            }
        }
    }

    fn cells(self) -> [String; 5] {
        [self.time, self.who, self.what, self.result, self.took]
    }
}

fn print_table(found: &[Stored], next: Option<u64>, freshness: Option<Freshness>) {
    if found.is_empty() {
        println!("nothing was found");
    } else {
        let rows = found.iter().map(|stored| {
            let cells = Row::of(stored).cells().into_iter().map(|cell| printable(&cell));
            std::iter::once(stored.index.to_string()).chain(cells).collect()
        });
        table(&["RECORD", "TIME", "WHO", "WHAT", "RESULT", "TOOK"], rows.collect());
    }
    if let Some(next) = next {
        eprintln!("{DIM}there is more: --before {next}{PLAIN}");
    }
    if let Some(freshness) = freshness {
        let newest = freshness.newest.map_or_else(String::new, |newest| format!(", up to {newest:.0}"));
        let records = freshness.searched;
        match freshness.complete {
            true => eprintln!("{DIM}searched {records} records{newest}{PLAIN}"),
            false => eprintln!(
                "{DIM}searched {records} records{newest}; what came later is not in the index yet{PLAIN}"
            ),
        }
    }
}

/// RFC 4180, with what a spreadsheet would take for a formula made text.
fn print_csv(found: &[Stored]) {
    let cell = |text: &str| {
        let text = printable(text);
        let formula = text.starts_with(['=', '+', '-', '@']);
        format!("\"{}{}\"", if formula && text.len() > 1 { "'" } else { "" }, text.replace('"', "\"\""))
    };
    println!("record,time,who,what,result,took");
    for stored in found {
        let cells: Vec<_> = Row::of(stored).cells().iter().map(|text| cell(text)).collect();
        println!("{},{}", stored.index, cells.join(","));
    }
}
