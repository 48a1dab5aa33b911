//! `portcullis check`

use std::path::PathBuf;

use anstream::println;
use clap::Args;

use portcullis_core::{Identity, RequestInfo};
use portcullis_mask::{Caller, Explanation, MaskConfig, MaskKey, Rules};

use super::{
    CliError, Failure,
    output::{GREEN, PLAIN, table},
};
use crate::config::Config;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    portcullis check --config portcullis.yaml\n  \
    portcullis check --config portcullis.yaml --explain-mask secrets/data.password\n  \
    portcullis check --config portcullis.yaml --explain-mask 'deployments.apps/spec.template.spec.containers[*].env[*].value' --user ci-agent\n\n\
    Exit codes: 0 it is right, 65 it is not (each problem with file:line:column).")]
pub(crate) struct CheckArgs {
    /// The configuration
    #[arg(
        long,
        short,
        env = "PORTCULLIS_CONFIG",
        value_name = "FILE",
        required_unless_present = "print_schema"
    )]
    config: Option<PathBuf>,
    /// Print the configuration's JSON Schema, for editors
    #[arg(long)]
    print_schema: bool,
    /// Say which mask rules have to do with a value, and whom and what they are for: `secrets/data.password`
    #[arg(long, value_name = "RESOURCE/PATH", conflicts_with = "print_schema")]
    explain_mask: Option<String>,
    /// Who asks, for `--explain-mask`
    #[arg(long, value_name = "USER", requires = "explain_mask")]
    user: Option<String>,
    /// A group of theirs; may be given more than once
    #[arg(long, value_name = "GROUP", requires = "user")]
    group: Vec<String>,
    /// In which namespace
    #[arg(long, value_name = "NAME", default_value = "", requires = "explain_mask")]
    namespace: String,
}

/// Prints which rules have to do with a value.
fn explain(
    mask: &MaskConfig,
    asked: &str,
    namespace: &str,
    user: Option<&String>,
    groups: &[String],
) -> Result<u8, CliError> {
    let usage = || Failure::usage("--explain-mask takes RESOURCE/PATH, as in secrets/data.password");
    let (resource, value) = asked.split_once('/').ok_or_else(usage)?;
    let wrong = |error: portcullis_mask::ConfigError| Failure::new(65, error.to_string());
    let rules = Rules::new(mask, MaskKey::generate()?).map_err(wrong)?;
    let (name, api_group) = resource.split_once('.').unwrap_or((resource, ""));
    let info = RequestInfo {
        is_resource_request: true,
        verb: "get".into(),
        api_group: api_group.into(),
        api_version: "v1".into(),
        resource: name.into(),
        namespace: namespace.into(),
        ..RequestInfo::default()
    };
    let identity =
        user.map(|user| Identity { user: user.clone(), groups: groups.to_vec(), ..Identity::default() });
    let caller = Caller { identity: identity.as_ref(), ..Caller::default() };
    let found = rules.explain(&info, caller, value).map_err(wrong)?;
    if found.is_empty() {
        println!("no rule has to do with {value} of {resource}: it is not masked");
        return Ok(0);
    }
    let subjects: Vec<_> = found.iter().flat_map(subjects).collect();
    let rows = found.into_iter().enumerate().map(|(order, found)| {
        let action = format!("{:?}", found.action).to_lowercase();
        let when = if found.when.is_empty() { "always".to_owned() } else { found.when.join("; ") };
        vec![(order + 1).to_string(), found.rule, found.set, action, when]
    });
    table(&["ORDER", "RULE", "SET", "ACTION", "IF"], rows.collect());
    if !subjects.is_empty() {
        println!();
        table(&["RULE", "", "ASKS FOR", ""], subjects);
    }
    Ok(0)
}

/// Whom and what a rule is for, and not for: a row for each thing that it asks for.
fn subjects(found: &Explanation) -> Vec<Vec<String>> {
    let parts = [("for", &found.only_for), ("except", &found.except)];
    let asked =
        parts.into_iter().flat_map(|(word, subjects)| subjects.asked().map(move |asked| (word, asked)));
    let mut last = "";
    let rows = asked.enumerate().map(|(number, (word, (what, names)))| {
        // Said once, and not again in every row.
        let rule = if number == 0 { found.rule.as_str() } else { "" };
        let shown = if word == last { "" } else { word };
        last = word;
        let between = if what == "labels" { " and " } else { ", " };
        vec![rule.to_owned(), shown.to_owned(), what.to_owned(), names.join(between)]
    });
    rows.collect()
}

pub(crate) fn check(args: CheckArgs) -> Result<u8, CliError> {
    if args.print_schema {
        let schema = schemars::schema_for!(Config);
        std::println!("{}", serde_json::to_string_pretty(&schema)?);
        return Ok(0);
    }
    let path = args.config.ok_or_else(|| Failure::usage("pass --config FILE"))?;
    let config = Config::load(&path)?;
    if let Some(asked) = &args.explain_mask {
        return explain(&config.mask, asked, &args.namespace, args.user.as_ref(), &args.group);
    }
    config.audit.check_files().map_err(|error| Failure::new(65, error))?;
    let clusters: Vec<_> = config.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    println!("{GREEN}✔{PLAIN} {} is right", path.display());
    println!("  clusters  {}", clusters.join(", "));
    println!("  issuers   {}", config.authentication.jwt.len());
    println!("  rules     {}", config.policy.rules.len());
    println!("  profiles  {}", config.grants.profiles.len());
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_rule_asks_for_is_said_a_line_each() {
        let yaml = "
packs: []
rules:
  - { name: both, paths: [a], for: { namespaces: [shop, 'pay*'], labels: { app: web, tier: 'prod*' } }, except: { users: [ada], groups: [security, audit] } }
  - { name: all, paths: [a] }
  - { name: granted, paths: [a], except: { grants: [deploy], names: [x] } }";
        let config: MaskConfig = serde_yaml::from_str(yaml).unwrap();
        let rules = Rules::new(&config, MaskKey::generate().unwrap()).unwrap();
        let info =
            RequestInfo { is_resource_request: true, resource: "pods".into(), ..RequestInfo::default() };
        let found = rules.explain(&info, Caller::default(), "a").unwrap();
        let rows: Vec<_> = found.iter().flat_map(subjects).map(|row| row.join("|")).collect();
        assert_eq!(
            rows,
            [
                "both|for|namespaces|shop, pay*",
                "||labels|app=web and tier=prod*",
                "|except|users|ada",
                "||groups|security, audit",
                "granted|except|grants|deploy",
                "||names|x",
            ]
        );
    }

    #[test]
    fn elements_may_have_their_numbers() {
        let ask = |asked: &str| explain(&MaskConfig::default(), asked, "", None, &[]);
        assert_eq!(ask("pods/spec.containers[0].env[12].value").unwrap(), 0);
        assert!(ask("pods/spec.containers[x]").is_err());
        assert!(ask("pods").is_err());
    }
}
