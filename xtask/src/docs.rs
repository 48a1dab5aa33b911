//! What documentation can get wrong without anybody noticing: links that lead nowhere, refusals that the table of status
//! codes does not know, metrics that nobody is told of.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::command;
use crate::{Failure, Result};

/// Where every refusal has its line.
const TABLE: &str = "docs/status-codes.md";
/// Where every metric has.
const METRICS: &str = "docs/operations.md";
/// What refusals' codes begin with.
const LAYERS: [&str; 15] = [
    "api",
    "audit",
    "credential",
    "gateway",
    "grants",
    "hold",
    "identities",
    "jit",
    "kube",
    "limits",
    "log",
    "mask",
    "oidc",
    "policy",
    "upstream",
];

/// Fails with every link of a Markdown file that leads nowhere in this repository, and every refusal and metric without a line.
pub(crate) fn check() -> Result {
    let files = tracked()?;
    let read = |path: &str| std::fs::read_to_string(command::root().join(path));
    let mut wrong = Vec::new();
    for file in files.iter().filter(|path| path.ends_with(".md")) {
        for link in links(&read(file)?) {
            let problem = match resolve(file, &link) {
                None => continue,
                Some((path, _)) if !command::root().join(&path).exists() => "there is no such file",
                Some((path, anchor)) if !anchor.is_empty() && path.ends_with(".md") => {
                    match anchors(&read(&path)?).contains(&anchor) {
                        true => continue,
                        false => "there is no such heading",
                    }
                }
                Some(_) => continue,
            };
            wrong.push(format!("{file}: {link}: {problem}"));
        }
    }
    let mut named = BTreeSet::new();
    for file in files.iter().filter(|path| is_source(path)) {
        named.extend(names(&read(file)?));
    }
    let (table, metrics) = (read(TABLE)?, read(METRICS)?);
    for name in &named {
        let (place, text) = if name.contains('/') { (TABLE, &table) } else { (METRICS, &metrics) };
        if !text.contains(&format!("`{name}`")) {
            wrong.push(format!("{place}: `{name}` is not in it"));
        }
    }
    if wrong.is_empty() {
        command::note(&format!("links resolve; {} refusals and metrics are documented", named.len()));
        return Ok(());
    }
    Err(Failure::new(format!("the documentation is wrong:\n  {}", wrong.join("\n  "))))
}

/// The paths of what is in the repository, or about to be.
fn tracked() -> Result<Vec<String>> {
    let mut git = command::program("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(command::root());
    let listed = command::output(&mut git)?;
    let exists = |path: &&str| command::root().join(path).is_file();
    Ok(String::from_utf8_lossy(&listed).lines().filter(exists).map(str::to_owned).collect())
}

/// Whether what a file says may reach a client: no tests, and not core's own examples of refusals.
fn is_source(path: &str) -> bool {
    let is_code = path.starts_with("crates/") && path.contains("/src/") && path.ends_with(".rs");
    is_code && !path.contains("tests") && !path.starts_with("crates/core/src/refusal")
}

/// The targets of a text's links and images, code left out.
fn links(markdown: &str) -> Vec<String> {
    let text = prose(markdown);
    let ends = |rest: &str, end: char| rest.split([end, ' ', '\n']).next().unwrap_or_default().to_owned();
    let markdown = text.split("](").skip(1).map(|rest| ends(rest, ')'));
    let html = text.split("src=\"").skip(1).map(|rest| ends(rest, '"'));
    markdown.chain(html).collect()
}

/// A text without its code blocks and code spans.
fn prose(markdown: &str) -> String {
    let mut fenced = false;
    let outside = markdown.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    let outside: Vec<&str> = outside.collect();
    outside.join("\n").split('`').step_by(2).collect()
}

/// The file and heading that a link in `from` leads to; `None` if it leaves the repository.
fn resolve(from: &str, link: &str) -> Option<(String, String)> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let path = match path {
        "" => PathBuf::from(from),
        path => Path::new(from).parent().unwrap_or(Path::new("")).join(path),
    };
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(parts.pop()),
            Component::CurDir => {}
            other => parts.push(other.as_os_str().to_string_lossy().into_owned()),
        }
    }
    Some((parts.join("/"), anchor.to_owned()))
}

/// The headings of a text, as links name them.
fn anchors(markdown: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let headings = markdown.lines().filter(|line| {
        fenced ^= line.trim_start().starts_with("```");
        !fenced && line.starts_with('#')
    });
    let slug = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        text.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    };
    headings.map(slug).collect()
}

/// The codes of refusals, and the metrics, that a source file names, before its tests and outside of comments.
fn names(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]\nmod").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let literals = lines.flat_map(|line| line.split('"').skip(1).step_by(2));
    literals.filter(|literal| is_code(literal) || is_metric(literal)).map(str::to_owned).collect()
}

fn is_code(literal: &str) -> bool {
    let is_word = |what: &str| !what.is_empty() && what.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    literal.split_once('/').is_some_and(|(layer, what)| LAYERS.contains(&layer) && is_word(what))
}

fn is_metric(literal: &str) -> bool {
    let rest = literal.strip_prefix("portcullis_").unwrap_or_default();
    !rest.is_empty() && rest.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_of_code() {
        let text = "[a](b.md#c) `[x](y)` <img src=\"d.svg\">\n```\n[no](z)\n```\n[e](https://f)";
        assert_eq!(links(text), ["b.md#c", "https://f", "d.svg"]);
    }

    #[test]
    fn links_lead_somewhere_or_away() {
        let at = |from, link| resolve(from, link);
        let to = |path: &str, anchor: &str| Some((path.to_owned(), anchor.to_owned()));
        assert_eq!(at("docs/a.md", "../README.md#x"), to("README.md", "x"));
        assert_eq!(at("docs/a.md", "#x"), to("docs/a.md", "x"));
        assert_eq!(at("docs/a.md", "https://example.com/"), None);
    }

    #[test]
    fn headings_become_anchors_as_they_do_on_github() {
        let text = "# Using `it`\n## The gateway's own: identity\n```\n# no\n```\n";
        let expected = ["the-gateways-own-identity", "using-it"].map(str::to_owned);
        assert_eq!(anchors(text), expected.into());
    }

    #[test]
    fn refusals_and_metrics_are_known_by_their_names() {
        let source = "// \"hold/comment\"\nlet a = \"hold/denied\"; let b = (\"/hold/x\", \"other/what\", \"jit/x/y\", \"portcullis_x_total\");\n\
            #[cfg(test)]\nmod tests { \"hold/test\" }";
        assert_eq!(names(source), ["hold/denied", "portcullis_x_total"].map(str::to_owned).into());
    }
}
