//! An MCP server for Kubernetes, as agents start it, and the few words of the protocol that an agent needs.

use std::path::Path;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::cluster::tools;
use crate::process::{Finished, Running};

/// A running server that speaks JSON-RPC on its standard input and output: npm `kubernetes-mcp-server`.
pub struct McpServer {
    process: Running,
    asked: u64,
}

impl McpServer {
    /// Starts one that asks as the current context of this kubeconfig, and greets it.
    pub async fn start(kubeconfig: &Path, options: &[&str]) -> Self {
        let program = tools().join("mcp/node_modules/.bin/kubernetes-mcp-server");
        assert!(program.exists(), "{} IS NOT INSTALLED: RUN `cargo xtask setup`", program.display());
        let mut command = Command::new(program);
        command.arg("--kubeconfig").arg(kubeconfig).args(options);
        let mut server = Self { process: Running::start(command), asked: 0 };
        let hello = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": { "name": "portcullis-tests", "version": "1" },
        });
        server.ask("initialize", hello).await;
        server.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        server
    }

    /// The names of the tools that it offers.
    pub async fn tools(&mut self) -> Vec<String> {
        let listed = self.ask("tools/list", json!({})).await;
        let tools = listed["tools"].as_array().unwrap_or_else(|| panic!("no tools: {listed}"));
        tools.iter().filter_map(|tool| Some(tool["name"].as_str()?.to_owned())).collect()
    }

    /// What a tool says: its `content`, perhaps `structuredContent`, and `isError` where it failed.
    pub async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        self.ask("tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    /// As [`call`](Self::call), where the tool must succeed: the text that a model would read.
    pub async fn text(&mut self, tool: &str, arguments: Value) -> String {
        let said = self.call(tool, arguments).await;
        assert!(said["isError"] != json!(true), "{tool}: {said}");
        said["content"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("{tool} says no text: {said}"))
            .to_owned()
    }

    /// Ends it as an agent does, by closing its input. All that it ever said is in what is returned.
    pub async fn finish(self) -> Finished {
        self.process.finish().await
    }

    /// The result of a request.
    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.asked += 1;
        let id = self.asked;
        self.say(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        let answer = |said: &str| {
            let mut messages = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            messages.find(|message| message["id"] == id)
        };
        let said = self.process.wait_for_output(|said| answer(said).is_some()).await;
        let mut answer = answer(&said).expect("just seen");
        assert!(answer.get("result").is_some(), "{method}: {answer}");
        answer["result"].take()
    }

    async fn say(&mut self, message: &Value) {
        self.process.write(format!("{message}\n")).await;
    }
}
