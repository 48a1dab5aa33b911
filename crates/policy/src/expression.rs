//! The CEL conditions of rules: compiled when the policy is read, run when a request is judged.
//!
//! CEL with the libraries Kubernetes adds (<https://kubernetes.io/docs/reference/using-api/cel/>).

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock},
};

use kube_cel::{
    KubeCelExt,
    cel::{Context, ExecutionError, Program, Value as CelValue},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::text::closest;

/// What an expression can read.
const VARIABLES: [&str; 4] = ["object", "request", "identity", "grant"];

/// Every function there is; registering them costs more than most expressions, so it is done once.
static FUNCTIONS: LazyLock<Context<'static>> = LazyLock::new(|| Context::default().with_all());

/// A CEL condition.
#[derive(Clone, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Expression {
    source: String,
    program: Arc<Program>,
    reads: [bool; VARIABLES.len()],
}

impl Expression {
    /// Compiles a condition.
    ///
    /// # Errors
    ///
    /// What is wrong with it: its syntax, or a variable or function that does not exist.
    pub fn parse(source: &str) -> Result<Self, String> {
        let program = Program::compile(source).map_err(|errors| {
            let text = errors.to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("ERROR: ").to_owned();
            format!("not a CEL expression: {first}")
        })?;
        let references = program.references();
        let reads = VARIABLES.map(|name| references.has_variable(name));
        for function in references.functions() {
            check_function(function)?;
        }
        let expression = Self { source: source.to_owned(), program: Arc::new(program), reads };
        expression.check_variables()?;
        Ok(expression)
    }

    /// Whether it reads the request's body.
    pub(crate) fn reads_object(&self) -> bool {
        self.reads[0]
    }

    /// Runs it. `variable` yields the value of each variable that it reads.
    ///
    /// # Errors
    ///
    /// Why it yields neither true nor false. Never a value of the request: the error is logged.
    pub(crate) fn holds(&self, variable: impl Fn(&str) -> Value) -> Result<bool, String> {
        let mut context = FUNCTIONS.new_inner_scope();
        for (name, read) in VARIABLES.iter().zip(self.reads) {
            if read {
                context.add_variable_from_value(*name, cel_value(variable(name)));
            }
        }
        match self.program.execute(&context) {
            Ok(CelValue::Bool(held)) => Ok(held),
            Ok(_) => Err("it yields no boolean".to_owned()),
            Err(ExecutionError::NoSuchKey(key)) => {
                Err(format!("there is no field {key:?}; ask with has() first"))
            }
            Err(ExecutionError::NoSuchOverload) => {
                Err("an operator does not fit the types of its values".to_owned())
            }
            Err(_) => Err("it cannot be evaluated for this request".to_owned()),
        }
    }

    /// Comprehensions bring variables of their own, so a reference alone does not tell which are free: those that are
    /// neither bound nor known are.
    fn check_variables(&self) -> Result<(), String> {
        let references = self.program.references();
        let mut unknown: Vec<&str> = references
            .variables()
            .into_iter()
            .filter(|name| {
                !VARIABLES.contains(name) && !is_bound(&self.source, name) && !NAMESPACES.contains(name)
            })
            .collect();
        unknown.sort_unstable();
        let Some(name) = unknown.first() else { return Ok(()) };
        let hint = match closest(name, VARIABLES) {
            Some(known) => format!("did you mean {known:?}?"),
            None => format!("there are {}", VARIABLES.join(", ")),
        };
        Err(format!("no variable {name:?} in the expression: {hint}"))
    }
}

/// JSON as Kubernetes shows it to CEL: whole numbers are `int`, never `uint`.
fn cel_value(value: Value) -> CelValue {
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(held) => CelValue::Bool(held),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => CelValue::Int(number),
            (None, Some(number)) => CelValue::UInt(number),
            (None, None) => CelValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => text.into(),
        Value::Array(items) => items.into_iter().map(cel_value).collect::<Vec<_>>().into(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, cel_value(value))).collect::<HashMap<_, _>>().into()
        }
    }
}

/// Whether a macro of the expression binds `name`: `list.exists(name, …)`.
fn is_bound(source: &str, name: &str) -> bool {
    const MACROS: [&str; 5] = ["all(", "exists(", "exists_one(", "map(", "filter("];
    name.starts_with(['@', '#'])
        || name.starts_with("__")
        || MACROS.iter().any(|name_of_macro| {
            source.match_indices(name_of_macro).any(|(at, _)| {
                let rest = source[at + name_of_macro.len()..].trim_start();
                rest.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with(','))
            })
        })
}

/// What stands before the dot in the names of some functions: `math.greatest`.
const NAMESPACES: [&str; 6] = ["math", "sets", "base64", "optional", "jsonpatch", "format"];

fn check_function(name: &str) -> Result<(), String> {
    let is_operator = !name.starts_with(|c: char| c.is_ascii_alphabetic())
        || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    // Calling a function with nothing tells whether there is one: it complains of its arguments, not of its name.
    let exists = |call: String| match Program::compile(&call) {
        Ok(call) => !matches!(call.execute(&FUNCTIONS), Err(ExecutionError::UndeclaredReference(_))),
        Err(_) => false,
    };
    let exists_somewhere = || {
        exists(format!("{name}()"))
            || NAMESPACES.iter().any(|namespace| exists(format!("{namespace}.{name}()")))
    };
    match is_operator || exists_somewhere() {
        true => Ok(()),
        false => Err(format!("no function {name:?} in CEL")),
    }
}

impl TryFrom<String> for Expression {
    type Error = String;

    fn try_from(source: String) -> Result<Self, String> {
        Self::parse(&source)
    }
}

impl From<Expression> for String {
    fn from(expression: Expression) -> Self {
        expression.source
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cel({:?})", self.source)
    }
}

impl JsonSchema for Expression {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Expression".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "A CEL expression that yields true or false." })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object() -> Value {
        json!({
            "metadata": {"name": "web", "labels": {"team": "shop"}},
            "spec": {"replicas": 3, "containers": [{"image": "evil/x"}, {"image": "ok/y"}]},
        })
    }

    fn check(source: &str, expected: Result<bool, &str>) {
        let expression = Expression::parse(source).unwrap();
        let held = expression.holds(|name| match name {
            "object" => object(),
            "identity" => json!({"user": "bot", "groups": ["ci"]}),
            _ => Value::Null,
        });
        match (&held, expected) {
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{source}: {error}"),
            (held, expected) => assert_eq!(held.as_ref().ok(), expected.as_ref().ok(), "{source}: {held:?}"),
        }
    }

    #[test]
    fn expressions_read_objects_and_identities() {
        check("object.spec.replicas > 2", Ok(true));
        check("object.spec.containers.exists(c, c.image.startsWith('evil/'))", Ok(true));
        check("object.spec.containers.all(c, c.image.startsWith('evil/'))", Ok(false));
        check("'ci' in identity.groups && identity.user == 'bot'", Ok(true));
        check("has(object.spec.hostNetwork) && object.spec.hostNetwork", Ok(false));
        check("object.metadata.labels.team.matches('^sh')", Ok(true));
        check("grant == null", Ok(true));
        check("math.greatest(1, object.spec.replicas) == 3", Ok(true));
        check("isQuantity('1Gi')", Ok(true));
    }

    #[test]
    fn expressions_that_yield_no_boolean_say_so() {
        check("object.spec.paused", Err("has()"));
        check("object.spec.replicas", Err("no boolean"));
    }

    fn check_wrong(source: &str, expected: &str) {
        let error = Expression::parse(source).unwrap_err();
        assert!(error.contains(expected), "{source}: {error}");
    }

    #[test]
    fn what_cannot_work_is_refused_when_it_is_read() {
        check_wrong("object.spec.", "not a CEL expression");
        check_wrong("objct.spec.replicas > 1", "did you mean \"object\"?");
        check_wrong("foo == 1", "there are object, request, identity, grant");
        check_wrong("frobnicate(object)", "no function \"frobnicate\"");
    }
}
