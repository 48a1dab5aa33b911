//! CEL expressions on `claims` and on `user`, as Kubernetes has them.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use kube_cel::{
    KubeCelExt,
    cel::{
        Context, IdedExpr, Value as Cel,
        common::ast::{EntryExpr, Expr, operators},
        objects::{Key, Map},
        parser::Parser,
    },
};
use serde_json::Value;

/// An expression, compiled once.
#[derive(Debug)]
pub(crate) struct Expression {
    program: IdedExpr,
    source: String,
}

/// Functions are registered once; each evaluation only adds its variable.
static BASE: LazyLock<Context<'static>> = LazyLock::new(|| Context::default().with_all());

/// Where functions have a first name: `sets.contains(…)` looks like a call on a variable.
const NAMESPACES: [&str; 8] =
    ["base64", "format", "jsonpatch", "lists", "math", "optional", "sets", "strings"];

impl Expression {
    /// Compiles `source`, which may use `variable` and nothing else.
    pub(crate) fn compile(source: &str, variable: &str) -> Result<Self, String> {
        if source.trim().is_empty() {
            return Err("the expression is empty".into());
        }
        let mut program = Parser::default()
            .enable_optional_syntax(true)
            .parse(source)
            .map_err(|error| format!("not CEL: {error}"))?;
        match prepare(&mut program, &mut vec![variable.to_owned()]) {
            Some(other) => Err(format!("there is no `{other}` here; the expression may use `{variable}`")),
            None => Ok(Self { program, source: source.to_owned() }),
        }
    }

    /// The expression, as it was written.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Whether a condition holds. Anything but a boolean is an error.
    pub(crate) fn holds(&self, variable: &str, value: &Cel) -> Result<bool, String> {
        match self.evaluate(variable, value)? {
            Cel::Bool(yes) => Ok(yes),
            other => Err(format!("`{}` yields {:?}, not a boolean", self.source, other.type_of())),
        }
    }

    /// A string or a list of strings, without the empty ones.
    pub(crate) fn strings(&self, variable: &str, value: &Cel) -> Result<Vec<String>, String> {
        let wrong = |other: &Cel| {
            Err(format!("`{}` yields {:?}, not a string or list of strings", self.source, other.type_of()))
        };
        let mut found = Vec::new();
        match self.evaluate(variable, value)? {
            Cel::Null => {}
            Cel::String(text) => found.push(text.to_string()),
            Cel::List(list) => {
                for item in list.iter() {
                    match item {
                        Cel::String(text) => found.push(text.to_string()),
                        other => return wrong(other),
                    }
                }
            }
            other => return wrong(&other),
        }
        found.retain(|text| !text.is_empty());
        Ok(found)
    }

    fn evaluate(&self, variable: &str, value: &Cel) -> Result<Cel, String> {
        let mut context = BASE.new_inner_scope();
        context.add_variable_from_value(variable, value.clone());
        context.resolve(&self.program).map_err(|error| format!("`{}`: {error}", self.source))
    }
}

/// Finds a name that stands for nothing, so that a slip shows when the configuration is read.
///
/// Also turns `a.?b` into `a[?'b']`, which is the same for JSON: the interpreter fails at the former where `b` is missing.
fn prepare(expression: &mut IdedExpr, known: &mut Vec<String>) -> Option<String> {
    match &mut expression.expr {
        Expr::Unspecified | Expr::Literal(_) => None,
        Expr::Ident(name) => (!known.contains(name)).then(|| name.clone()),
        Expr::Select(select) => prepare(&mut select.operand, known),
        Expr::List(list) => prepare_all(&mut list.elements, known),
        Expr::Call(call) => {
            if call.func_name == operators::OPT_SELECT {
                call.func_name = operators::OPT_INDEX.to_owned();
            }
            let target = call.target.as_deref_mut().filter(
                |target| !matches!(&target.expr, Expr::Ident(name) if NAMESPACES.contains(&name.as_str())),
            );
            prepare_all(target.into_iter().chain(&mut call.args), known)
        }
        Expr::Map(map) => map.entries.iter_mut().find_map(|entry| prepare_entry(&mut entry.expr, known)),
        Expr::Struct(object) => {
            object.entries.iter_mut().find_map(|entry| prepare_entry(&mut entry.expr, known))
        }
        Expr::Comprehension(loops) => {
            let outside = prepare_all([&mut loops.iter_range, &mut loops.accu_init], known);
            let outer = known.len();
            known.extend([loops.iter_var.clone(), loops.accu_var.clone()]);
            known.extend(loops.iter_var2.clone());
            let inside = prepare_all([&mut loops.loop_cond, &mut loops.loop_step, &mut loops.result], known);
            known.truncate(outer);
            outside.or(inside)
        }
    }
}

fn prepare_all<'e>(
    parts: impl IntoIterator<Item = &'e mut IdedExpr>,
    known: &mut Vec<String>,
) -> Option<String> {
    parts.into_iter().find_map(|part| prepare(part, known))
}

fn prepare_entry(entry: &mut EntryExpr, known: &mut Vec<String>) -> Option<String> {
    match entry {
        EntryExpr::StructField(field) => prepare(&mut field.value, known),
        EntryExpr::MapEntry(entry) => prepare_all([&mut entry.key, &mut entry.value], known),
    }
}

/// JSON as CEL sees it: whole numbers are `int`, as in Kubernetes.
pub(crate) fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(yes) => Cel::Bool(*yes),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Cel::Int(number),
            (None, Some(number)) => Cel::UInt(number),
            _ => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(fields) => {
            let map: HashMap<Key, Cel> = fields
                .iter()
                .map(|(name, value)| (Key::String(Arc::new(name.clone())), to_cel(value)))
                .collect();
            Cel::Map(Map { map: Arc::new(map) })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims() -> Cel {
        to_cel(&json!({
            "sub": "repo:octo/app", "roles": ["dev", "", "ops"], "exp": 1_700_000_000, "verified": true,
            "kubernetes.io": { "namespace": "shop" },
        }))
    }

    fn check(source: &str, expected: Result<&[&str], &str>) {
        let found = Expression::compile(source, "claims").and_then(|e| e.strings("claims", &claims()));
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{source}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{source}: {found}"),
            (found, _) => panic!("{source}: {found:?}"),
        }
    }

    #[test]
    fn strings_and_lists_come_out_and_nothing_else() {
        check("claims.sub", Ok(&["repo:octo/app"]));
        check("'ci:' + claims.sub", Ok(&["ci:repo:octo/app"]));
        check("claims.roles", Ok(&["dev", "ops"]));
        check("claims.roles.map(r, 'x:' + r).filter(r, r != 'x:')", Ok(&["x:dev", "x:ops"]));
        check("['a', 'b:' + claims['kubernetes.io'].namespace]", Ok(&["a", "b:shop"]));
        check("claims.?missing.orValue('')", Ok(&[]));
        check("claims.?missing.?deeper.orValue('')", Ok(&[]));
        check("claims.?sub.orValue('')", Ok(&["repo:octo/app"]));
        check("has(claims.missing) ? claims.missing : 'none'", Ok(&["none"]));
        check("claims.sub.split(':')[1]", Ok(&["octo/app"]));
        check("sets.contains(claims.roles, ['dev']) ? 'yes' : 'no'", Ok(&["yes"]));
        check("claims.roles.map(r, {'k': r}).map(m, m.k)", Ok(&["dev", "ops"]));
        check("claims.roles.map(r, s)", Err("there is no `s` here"));
        check("claims.roles.map(r, r) + r", Err("there is no `r` here"));
        check("{'a': b}.a", Err("there is no `b` here"));
        check("claims.missing", Err("missing"));
        check("claims.exp", Err("not a string"));
        check("user.name", Err("there is no `user` here"));
        check("claims.sub +", Err("not CEL"));
        check(" ", Err("empty"));
    }

    #[test]
    fn conditions_are_booleans() {
        let holds = |source: &str| {
            Expression::compile(source, "claims").and_then(|expression| expression.holds("claims", &claims()))
        };
        assert_eq!(holds("claims.exp > 5 && claims.verified"), Ok(true));
        assert_eq!(holds("claims.sub.startsWith('repo:evil/')"), Ok(false));
        assert_eq!(holds("claims.roles.exists(r, r == 'ops')"), Ok(true));
        assert!(holds("claims.sub").is_err());
        assert!(holds("claims.missing == 'x'").is_err());
    }
}
