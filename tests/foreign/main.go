// Command foreign reads what a ledger wrote with the code of Go's checksum database, which knows nothing of us, and signs what a
// ledger should understand.
//
//	foreign verify -dir DIR -key FILE [-old NOTE]... [-proof FILE]... [-consistency FILE]...
//	foreign sign   -origin NAME -size N -root BASE64
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("verify or sign?"))
	}
	var err error
	switch os.Args[1] {
	case "verify":
		err = verify(os.Args[2:])
	case "sign":
		err = sign(os.Args[2:])
	default:
		err = fmt.Errorf("no command %q", os.Args[1])
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "refused:", err)
	os.Exit(1)
}

// files is a flag that may be given more than once.
type files []string

func (f *files) String() string     { return strings.Join(*f, " ") }
func (f *files) Set(s string) error { *f = append(*f, s); return nil }

func verify(args []string) error {
	flags := flag.NewFlagSet("verify", flag.ContinueOnError)
	dir := flags.String("dir", "", "the ledger's directory")
	key := flags.String("key", "", "a file with the public key")
	var old, proofs, consistencies files
	flags.Var(&old, "old", "an older checkpoint")
	flags.Var(&proofs, "proof", "a C2SP tlog-proof")
	flags.Var(&consistencies, "consistency", "sizes, roots and hashes, one a line")
	if err := flags.Parse(args); err != nil {
		return err
	}
	vkey, err := os.ReadFile(*key)
	if err != nil {
		return err
	}
	verifier, err := note.NewVerifier(strings.TrimSpace(string(vkey)))
	if err != nil {
		return err
	}
	log, err := open(*dir, verifier)
	if err != nil {
		return err
	}
	if err := log.entries(); err != nil {
		return err
	}
	if err := log.prove(); err != nil {
		return err
	}
	for _, file := range old {
		if err := log.continues(file); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	for _, file := range proofs {
		if err := included(file, verifier); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	for _, file := range consistencies {
		if err := consistent(file); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	fmt.Printf("accepted %d records, %d older checkpoints, %d inclusion proofs, %d consistency proofs\n",
		log.tree.N, len(old), len(proofs), len(consistencies))
	return nil
}

// log is a tiled log in a directory.
type log struct {
	dir      string
	verifier note.Verifier
	tree     tlog.Tree
	hashes   tlog.HashReader
}

func open(dir string, verifier note.Verifier) (*log, error) {
	msg, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return nil, err
	}
	tree, err := checkpoint(msg, verifier)
	if err != nil {
		return nil, err
	}
	l := &log{dir: dir, verifier: verifier, tree: tree}
	// Checks every hash that it reads against the tree.
	l.hashes = tlog.TileHashReader(tree, l)
	return l, nil
}

func checkpoint(msg []byte, verifier note.Verifier) (tlog.Tree, error) {
	signed, err := note.Open(msg, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(signed.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return tlog.Tree{}, errors.New("this is no checkpoint of the log")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: root}, err
}

// path is where C2SP tlog-tiles has the tile that the checksum database has below tile/8.
func path(tile tlog.Tile) string {
	path := strings.TrimPrefix(tile.Path(), "tile/8/")
	return "tile/" + strings.Replace(path, "data/", "entries/", 1)
}

func (l *log) Height() int { return 8 }

func (l *log) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, tile := range tiles {
		bytes, err := os.ReadFile(filepath.Join(l.dir, path(tile)))
		if err != nil {
			return nil, err
		}
		data = append(data, bytes)
	}
	return data, nil
}

func (l *log) SaveTiles([]tlog.Tile, [][]byte) {}

// entries demands that every record in the bundles be the one in the tree.
func (l *log) entries() error {
	for first := int64(0); first < l.tree.N; first += 256 {
		tile := tlog.Tile{H: 8, L: -1, N: first / 256, W: int(min(256, l.tree.N-first))}
		bundle, err := os.ReadFile(filepath.Join(l.dir, path(tile)))
		if err != nil {
			return err
		}
		var indexes []int64
		var found []tlog.Hash
		for i := range tile.W {
			if len(bundle) < 2 || len(bundle) < 2+int(binary.BigEndian.Uint16(bundle)) {
				return fmt.Errorf("%s ends early", path(tile))
			}
			end := 2 + int(binary.BigEndian.Uint16(bundle))
			found = append(found, tlog.RecordHash(bundle[2:end]))
			indexes = append(indexes, tlog.StoredHashIndex(0, first+int64(i)))
			bundle = bundle[end:]
		}
		if len(bundle) > 0 {
			return fmt.Errorf("%s has more in it than its records", path(tile))
		}
		expected, err := l.hashes.ReadHashes(indexes)
		if err != nil {
			return err
		}
		for i := range found {
			if found[i] != expected[i] {
				return fmt.Errorf("record %d is not in the tree", first+int64(i))
			}
		}
	}
	root, err := tlog.TreeHash(l.tree.N, l.hashes)
	if err == nil && root != l.tree.Hash {
		err = errors.New("the tiles have another root than the checkpoint")
	}
	return err
}

// prove makes proofs from the tiles and checks them.
func (l *log) prove() error {
	for index := int64(0); index < l.tree.N; index += 1 + index%37 {
		proof, err := tlog.ProveRecord(l.tree.N, index, l.hashes)
		if err != nil {
			return err
		}
		leaf, err := l.hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
		if err != nil {
			return err
		}
		if err := tlog.CheckRecord(proof, l.tree.N, l.tree.Hash, index, leaf[0]); err != nil {
			return err
		}
	}
	return nil
}

// continues demands that the log have everything that an older checkpoint signed.
func (l *log) continues(file string) error {
	msg, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	old, err := checkpoint(msg, l.verifier)
	if err != nil {
		return err
	}
	proof, err := tlog.ProveTree(l.tree.N, old.N, l.hashes)
	if err != nil {
		return err
	}
	return tlog.CheckTree(proof, l.tree.N, l.tree.Hash, old.N, old.Hash)
}

// included checks a C2SP tlog-proof whose extra line is the record.
func included(file string, verifier note.Verifier) error {
	msg, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	head, signed, ok := bytes.Cut(msg, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !ok || len(lines) < 3 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return errors.New("this is no proof")
	}
	record, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
	if err != nil {
		return err
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
	if err != nil {
		return err
	}
	proof, err := hashes(lines[3:])
	if err != nil {
		return err
	}
	tree, err := checkpoint(signed, verifier)
	if err != nil {
		return err
	}
	return tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(record))
}

// consistent checks a consistency proof: the two sizes, the two roots, then the hashes.
func consistent(file string) error {
	msg, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSuffix(string(msg), "\n"), "\n")
	if len(lines) < 4 {
		return errors.New("this is no proof")
	}
	old, err := strconv.ParseInt(lines[0], 10, 64)
	if err != nil {
		return err
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return err
	}
	all, err := hashes(lines[2:])
	if err != nil {
		return err
	}
	return tlog.CheckTree(all[2:], size, all[1], old, all[0])
}

func hashes(lines []string) ([]tlog.Hash, error) {
	var hashes []tlog.Hash
	for _, line := range lines {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, hash)
	}
	return hashes, nil
}

// sign prints a log's key, a witness's key, and a checkpoint that both signed.
func sign(args []string) error {
	flags := flag.NewFlagSet("sign", flag.ContinueOnError)
	origin := flags.String("origin", "", "the log's name")
	size := flags.Int64("size", 0, "how many records")
	root := flags.String("root", "", "the root, in base64")
	if err := flags.Parse(args); err != nil {
		return err
	}
	skey, vkey, err := note.GenerateKey(rand.Reader, *origin)
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		return err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	w := witness{name: "witness.example/foreign", private: private}
	typed := append([]byte{0x04}, public...)
	id := sha256.Sum256(append([]byte(w.name+"\n"), typed...))
	w.id = binary.BigEndian.Uint32(id[:])
	text := fmt.Sprintf("%s\n%d\n%s\n", *origin, *size, *root)
	signed, err := note.Sign(&note.Note{Text: text}, signer, w)
	if err != nil {
		return err
	}
	fmt.Println(vkey)
	fmt.Printf("%s+%08x+%s\n", w.name, w.id, base64.StdEncoding.EncodeToString(typed))
	_, err = os.Stdout.Write(signed)
	return err
}

// witness cosigns as C2SP tlog-cosignature/v1 says.
type witness struct {
	name    string
	id      uint32
	private ed25519.PrivateKey
}

func (w witness) Name() string    { return w.name }
func (w witness) KeyHash() uint32 { return w.id }

func (w witness) Sign(text []byte) ([]byte, error) {
	now := uint64(time.Now().Unix())
	message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", now, text)
	return append(binary.BigEndian.AppendUint64(nil, now), ed25519.Sign(w.private, []byte(message))...), nil
}
