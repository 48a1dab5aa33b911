//! `portcullis mask`: the mask as a filter, for people and scripts, and for trying rules.

use std::{
    io::{Read, Write},
    path::PathBuf,
};

use bytes::Bytes;
use clap::Args;
use portcullis_core::{Identity, RequestInfo};
use portcullis_mask::{Caller, MaskConfig, MaskKey, Masker, Piece, Rules, Scope, TextMasker};

use super::{CliError, Failure};

/// How much is read at once.
const CHUNK: usize = 64 * 1024;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    kubectl get secrets -o json | portcullis mask\n  \
    portcullis mask --rules rules.yaml --resource widgets.example.com --count < widget.json\n  \
    kubectl logs web | portcullis mask --resource pods/log\n\n\
    The rules are what stands below `mask:` in the gateway's configuration; without any it is the default packs.\n\
    Exit codes: 0 all of it was masked, 65 the rules are wrong or the input is not JSON; nothing of an unfinished value is printed.")]
pub(crate) struct MaskArgs {
    /// The rules, in YAML
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// What the input is an answer to: `secrets`, `deployments.apps`, `pods/log`. Objects that say their kind need none
    #[arg(long, value_name = "RESOURCE", default_value = "objects.unknown")]
    resource: String,
    /// The namespace that was asked for
    #[arg(long, value_name = "NAME", default_value = "")]
    namespace: String,
    /// The object that was asked for
    #[arg(long, value_name = "NAME", default_value = "")]
    name: String,
    /// Who asks, for rules with `for` or `except`
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// A group of theirs; may be given more than once
    #[arg(long, value_name = "GROUP", requires = "user")]
    group: Vec<String>,
    /// The input is a sequence of documents, such as a watch
    #[arg(long)]
    sequence: bool,
    /// The key that tokens are made with, made if there is none; without it they differ from run to run
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Say on standard error how many values each rule replaced
    #[arg(long)]
    count: bool,
}

pub(crate) fn mask(args: &MaskArgs) -> Result<u8, CliError> {
    let scope = args.scope()?;
    let mut engine = match args.resource.ends_with("/log") {
        true => Engine::Text(Box::new(TextMasker::new(&scope))),
        false if args.sequence => Engine::Json(Box::new(Masker::sequence(scope))),
        false => Engine::Json(Box::new(Masker::new(scope))),
    };
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let (mut chunk, mut pieces) = (vec![0; CHUNK], Vec::new());
    loop {
        let length = input.read(&mut chunk)?;
        engine.feed(&chunk[..length], &mut pieces)?;
        for piece in pieces.drain(..) {
            output.write_all(&piece.into_bytes())?;
        }
        output.flush()?;
        if length == 0 {
            break;
        }
    }
    if args.count {
        for (rule, count) in engine.take_counts() {
            anstream::eprintln!("{rule}: {count}");
        }
    }
    Ok(0)
}

enum Engine {
    Json(Box<Masker>),
    Text(Box<TextMasker>),
}

impl Engine {
    /// Takes some of the input; nothing is its end.
    fn feed(&mut self, chunk: &[u8], out: &mut Vec<Piece>) -> Result<(), CliError> {
        let (last, chunk) = (chunk.is_empty(), Bytes::copy_from_slice(chunk));
        match self {
            Self::Json(masker) => {
                let fed = if last { masker.finish(out) } else { masker.push(chunk, out) };
                fed.map_err(|error| Failure::new(65, format!("the input cannot be masked: {error}")).into())
            }
            Self::Text(masker) => {
                if last {
                    masker.finish(out)
                } else {
                    masker.push(chunk, out)
                }
                Ok(())
            }
        }
    }

    fn take_counts(&mut self) -> Vec<(String, u64)> {
        match self {
            Self::Json(masker) => masker.take_counts(),
            Self::Text(masker) => masker.take_counts(),
        }
    }
}

impl MaskArgs {
    fn scope(&self) -> Result<Scope, CliError> {
        let wrong = |what: String| CliError::from(Failure::new(65, what));
        let config: MaskConfig = match &self.rules {
            None => MaskConfig::default(),
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .map_err(|error| wrong(format!("{}: {error}", file.display())))?;
                serde_yaml::from_str(&text).map_err(|error| wrong(format!("{}: {error}", file.display())))?
            }
        };
        let key = match &self.key_file {
            Some(file) => MaskKey::load_or_create(file)?,
            None => MaskKey::generate()?,
        };
        let rules = Rules::new(&config, key).map_err(|error| wrong(error.to_string()))?;
        let (resource, subresource) = self.resource.split_once('/').unwrap_or((&self.resource, ""));
        let (resource, api_group) = resource.split_once('.').unwrap_or((resource, ""));
        let info = RequestInfo {
            is_resource_request: true,
            verb: "get".into(),
            api_group: api_group.into(),
            api_version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            ..RequestInfo::default()
        };
        let identity = self.user.as_ref().map(|user| Identity {
            user: user.clone(),
            groups: self.group.clone(),
            ..Identity::default()
        });
        Ok(rules.scope(&info, Caller { identity: identity.as_ref(), ..Caller::default() }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: MaskArgs,
    }

    fn run(arguments: &[&str], input: &str) -> Result<String, String> {
        let args = Line::parse_from(["mask"].iter().chain(arguments)).args;
        let scope = args.scope().map_err(|error| error.to_string())?;
        let mut engine = match args.resource.ends_with("/log") {
            true => Engine::Text(Box::new(TextMasker::new(&scope))),
            false => Engine::Json(Box::new(Masker::new(scope))),
        };
        let mut out = Vec::new();
        for chunk in input.as_bytes().chunks(7).chain([&b""[..]]) {
            engine.feed(chunk, &mut out).map_err(|error| error.to_string())?;
        }
        Ok(out.into_iter().map(|piece| String::from_utf8_lossy(&piece.into_bytes()).into_owned()).collect())
    }

    #[test]
    fn objects_are_masked_by_their_own_kind_or_by_what_was_asked_for() {
        let secret = r#"{"kind":"Secret","data":{"p":"aHVudGVyMg=="}}"#;
        assert!(!run(&[], secret).unwrap().contains("aHVudGVyMg"));
        let bare = r#"{"data":{"p":"aHVudGVyMg=="}}"#;
        assert_eq!(run(&[], bare).unwrap(), bare);
        assert!(!run(&["--resource", "secrets"], bare).unwrap().contains("aHVudGVyMg"));
        let log = "token ghp_0123456789abcdefghijklmnopqrstuvwxyz.\n";
        assert!(run(&["--resource", "pods/log"], log).unwrap().starts_with("token masked:"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cut = run(&["--resource", "secrets"], r#"{"data":{"p":"aHVud"#).unwrap_err();
        assert!(cut.contains("cannot be masked") && !cut.contains("aHVud"), "{cut}");
        let folder = tempfile::tempdir().unwrap();
        let rules = folder.path().join("rules.yaml");
        std::fs::write(&rules, "rules: [{ name: x, pahts: [a] }]").unwrap();
        let wrong = run(&["--rules", rules.to_str().unwrap()], "{}").unwrap_err();
        assert!(wrong.contains("pahts") && wrong.contains("line 1"), "{wrong}");
    }
}
