package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/creack/pty"
)

// searchPath is where commands are looked for; never our own PATH, which may lead into a home
// directory that the other user must not enter.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// drain is how long output may still flow after a process ended, when its children hold the pipe.
const drain = 2 * time.Second

// command is what a container or kubectl exec asks to run.
type command struct {
	argv, env      []string
	tty, stdin     bool
	stdout, stderr io.Writer
}

// process is a running command, in a session of its own so that its children end with it.
type process struct {
	cmd *exec.Cmd
	// stdin is nil when nobody may write; terminal is nil without a tty.
	stdin    io.WriteCloser
	terminal *os.File
	// copied is closed when the terminal's output has been passed on.
	copied chan struct{}
}

// start runs a command in the pod's directory, as the unprivileged user where there is one.
func (k *kubelet) start(p *pod, c command) (*process, error) {
	path, err := lookPath(c.argv[0])
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: path, Args: c.argv, Dir: p.dir, WaitDelay: drain}
	cmd.Env = append([]string{
		"PATH=" + searchPath, "HOME=" + p.dir, "TMPDIR=" + p.dir, "HOSTNAME=" + p.name, "LANG=C.UTF-8",
	}, c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: k.runAs, Pdeathsig: syscall.SIGKILL}

	if c.tty {
		return startTerminal(cmd, c, k.runAs)
	}
	started := &process{cmd: cmd}
	cmd.Stdout, cmd.Stderr = c.stdout, c.stderr
	if c.stdin {
		if started.stdin, err = cmd.StdinPipe(); err != nil {
			return nil, err
		}
	}
	return started, cmd.Start()
}

// startTerminal gives the command a pseudo-terminal, whose other end is input and output at once.
func startTerminal(cmd *exec.Cmd, c command, owner *syscall.Credential) (*process, error) {
	ours, theirs, err := pty.Open()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if owner != nil {
		if err := theirs.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
			ours.Close()
			return nil, err
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.Env = append(cmd.Env, "TERM=xterm")
	cmd.SysProcAttr.Setctty = true
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, err
	}
	started := &process{cmd: cmd, terminal: ours, copied: make(chan struct{})}
	if c.stdin {
		started.stdin = terminalInput{ours}
	}
	go func() {
		defer close(started.copied)
		// Ends with EIO when nobody holds the other end any more.
		_, _ = io.Copy(c.stdout, ours)
	}()
	return started, nil
}

// terminalInput is closed as a person closes it: with ^D. So a shell ends when its client is gone.
type terminalInput struct{ terminal *os.File }

func (t terminalInput) Write(data []byte) (int, error) { return t.terminal.Write(data) }

func (t terminalInput) Close() error {
	const endOfTransmission = 4
	_, err := t.terminal.Write([]byte{endOfTransmission})
	return err
}

// wait returns the exit code as a shell counts it: 128 and the signal's number for a signal.
func (p *process) wait() int32 {
	err := p.cmd.Wait()
	if p.terminal != nil {
		select {
		case <-p.copied:
		case <-time.After(drain):
		}
		p.terminal.Close()
	}
	state := p.cmd.ProcessState
	if state == nil {
		return 128
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int32(status.Signal())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) || err == nil {
		return int32(state.ExitCode())
	}
	// The reader of its output went away; how the process itself ended still counts.
	return int32(state.ExitCode())
}

func (p *process) resize(width, height uint16) {
	if p.terminal != nil {
		_ = pty.Setsize(p.terminal, &pty.Winsize{Rows: height, Cols: width})
	}
}

func (p *process) terminate() { p.signal(syscall.SIGTERM) }
func (p *process) kill()      { p.signal(syscall.SIGKILL) }

// signal reaches the whole session's process group.
func (p *process) signal(signal syscall.Signal) { _ = syscall.Kill(-p.cmd.Process.Pid, signal) }

func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(searchPath) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("exec: %q: executable file not found in $PATH", name)
}
