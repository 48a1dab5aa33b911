package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
)

// output is what one instance of a container wrote: a log file in the format of the container
// runtime interface (time, stream, F or P, text), and the attached clients.
type output struct {
	path string

	mu   sync.Mutex
	file *os.File
	size int64
	// line has, per stream, what waits for its newline.
	line map[string][]byte
	// changed is closed, and replaced, whenever there is more to read or the end is reached.
	changed  chan struct{}
	ended    bool
	attached map[*attached]struct{}
}

// longestLine is cut into parts, as container runtimes do.
const longestLine = 16 << 10

func newOutput(path string) (*output, error) {
	if err := makeParent(path); err != nil {
		return nil, err
	}
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &output{
		path: path, file: file, line: map[string][]byte{},
		changed: make(chan struct{}), attached: map[*attached]struct{}{},
	}, nil
}

type outputWriter struct {
	output *output
	stream string
}

func (o *output) stdout() io.Writer { return outputWriter{o, "stdout"} }
func (o *output) stderr() io.Writer { return outputWriter{o, "stderr"} }

// Write never fails: a full disk or a slow client must not change what the process does.
func (w outputWriter) Write(data []byte) (int, error) {
	o := w.output
	o.mu.Lock()
	defer o.mu.Unlock()
	for client := range o.attached {
		if !client.offer(w.stream, data) {
			delete(o.attached, client)
		}
	}
	o.line[w.stream] = append(o.line[w.stream], data...)
	for {
		rest := o.line[w.stream]
		end := bytes.IndexByte(rest, '\n')
		switch {
		case end >= 0:
			o.write(w.stream, "F", rest[:end])
			o.line[w.stream] = rest[end+1:]
		case len(rest) >= longestLine:
			o.write(w.stream, "P", rest[:longestLine])
			o.line[w.stream] = rest[longestLine:]
		default:
			return len(data), nil
		}
	}
}

// write appends one line and wakes the readers; the lock is held.
func (o *output) write(stream, tag string, text []byte) {
	n, _ := fmt.Fprintf(o.file, "%s %s %s %s\n", time.Now().UTC().Format(time.RFC3339Nano), stream, tag, text)
	o.size += int64(n)
	o.wake()
}

func (o *output) wake() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// end flushes what has no newline, and tells readers and attached clients that this was all.
func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return
	}
	for stream, rest := range o.line {
		if len(rest) > 0 {
			o.write(stream, "P", rest)
		}
	}
	for client := range o.attached {
		client.end()
	}
	o.attached = nil
	o.ended = true
	_ = o.file.Close()
	o.wake()
}

// attached is one client of kubectl attach.
type attached struct {
	chunks chan chunk
}

type chunk struct {
	stream string
	data   []byte
}

// attach hands on everything written from now on; the channel is closed at the end. A client that
// does not read for too long loses its place rather than stopping the container.
func (o *output) attach() *attached {
	client := &attached{chunks: make(chan chunk, 1024)}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		client.end()
	} else {
		o.attached[client] = struct{}{}
	}
	return client
}

func (o *output) detach(client *attached) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.attached, client)
}

func (a *attached) offer(stream string, data []byte) bool {
	select {
	case a.chunks <- chunk{stream, bytes.Clone(data)}:
		return true
	default:
		a.end()
		return false
	}
}

func (a *attached) end() { close(a.chunks) }

// copyLogs writes what the options ask for; with follow it goes on until the instance ends or the
// reader does.
func (o *output) copyLogs(done <-chan struct{}, to io.Writer, options *v1.PodLogOptions) error {
	since := time.Time{}
	if options.SinceTime != nil {
		since = options.SinceTime.Time
	} else if options.SinceSeconds != nil {
		since = time.Now().Add(-time.Duration(*options.SinceSeconds) * time.Second)
	}
	wanted := func(line logLine) bool {
		if options.Stream != nil && *options.Stream != v1.LogStreamAll && !strings.EqualFold(*options.Stream, line.stream) {
			return false
		}
		return !line.time.Before(since)
	}

	skip := 0
	if options.TailLines != nil {
		total := 0
		if err := o.eachLine(nil, false, func(line logLine) error {
			if wanted(line) {
				total++
			}
			return nil
		}); err != nil {
			return err
		}
		skip = max(0, total-int(*options.TailLines))
	}
	left := int64(-1)
	if options.LimitBytes != nil {
		left = *options.LimitBytes
	}
	err := o.eachLine(done, options.Follow, func(line logLine) error {
		if !wanted(line) {
			return nil
		}
		if skip > 0 {
			skip--
			return nil
		}
		text := line.text
		if options.Timestamps {
			text = append([]byte(line.stamp+" "), text...)
		}
		if left >= 0 && int64(len(text)) >= left {
			_, _ = to.Write(text[:left])
			return io.EOF
		}
		left -= int64(len(text))
		_, err := to.Write(text)
		return err
	})
	if err == io.EOF {
		return nil
	}
	return err
}

type logLine struct {
	time          time.Time
	stamp, stream string
	// text ends with its newline, unless the process wrote none.
	text []byte
}

func (o *output) eachLine(done <-chan struct{}, follow bool, use func(logLine) error) error {
	file, err := os.Open(o.path)
	if err != nil {
		return err
	}
	defer file.Close()
	reader := bufio.NewReader(&growing{output: o, file: file, follow: follow, done: done})
	for {
		raw, err := reader.ReadBytes('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		fields := bytes.SplitN(raw, []byte(" "), 4)
		if len(fields) != 4 {
			return fmt.Errorf("%s: not a log line: %q", o.path, raw)
		}
		line := logLine{stamp: string(fields[0]), stream: string(fields[1]), text: fields[3]}
		if line.time, err = time.Parse(time.RFC3339Nano, line.stamp); err != nil {
			return err
		}
		if fields[2][0] == 'P' {
			line.text = line.text[:len(line.text)-1]
		}
		if err := use(line); err != nil {
			return err
		}
	}
}

// growing reads a log file and, when it follows, waits at its end for more.
type growing struct {
	output *output
	file   *os.File
	at     int64
	follow bool
	done   <-chan struct{}
}

func (g *growing) Read(into []byte) (int, error) {
	for {
		g.output.mu.Lock()
		size, ended, changed := g.output.size, g.output.ended, g.output.changed
		g.output.mu.Unlock()
		if g.at < size {
			n, err := g.file.Read(into[:min(int64(len(into)), size-g.at)])
			g.at += int64(n)
			return n, err
		}
		if ended || !g.follow {
			return 0, io.EOF
		}
		select {
		case <-g.done:
			return 0, io.EOF
		case <-changed:
		}
	}
}
