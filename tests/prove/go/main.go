// Check a log directory as the Go ecosystem does: golang.org/x/mod's note and tlog packages, as vendored in Go itself.
//
//	main <verifier key> <directory>
//
// The directory holds what is served: checkpoint, tiles, entry bundles, and old-checkpoint, an earlier head; also
// signer, our private key file, with which a note is signed here and printed for the other side to verify.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type head struct {
	size int64
	root tlog.Hash
}

func main() {
	verifier, err := note.NewVerifier(os.Args[1])
	check(err)
	dir := os.Args[2]
	now, old := open(verifier, filepath.Join(dir, "checkpoint")), open(verifier, filepath.Join(dir, "old-checkpoint"))
	reader := tlog.TileHashReader(tlog.Tree{N: now.size, Hash: now.root}, tiles{dir})

	indexes := []int64{0, now.size / 2, now.size - 1}
	for _, index := range indexes {
		proof, err := tlog.ProveRecord(now.size, index, reader)
		check(err)
		check(tlog.CheckRecord(proof, now.size, now.root, index, tlog.RecordHash(entry(dir, now.size, index))))
	}
	tree, err := tlog.ProveTree(now.size, old.size, reader)
	check(err)
	check(tlog.CheckTree(tree, now.size, now.root, old.size, old.root))
	checkProofFile(verifier, filepath.Join(dir, "entry.tlog-proof"), filepath.Join(dir, "entry"))

	secret, err := os.ReadFile(filepath.Join(dir, "signer"))
	check(err)
	signer, err := note.NewSigner(strings.TrimSuffix(string(secret), "\n"))
	check(err)
	signed, err := note.Sign(&note.Note{Text: "signed by Go\n"}, signer)
	check(err)
	fmt.Print(string(signed))
}

func open(verifier note.Verifier, path string) head {
	data, err := os.ReadFile(path)
	check(err)
	return parse(verifier, data)
}

func parse(verifier note.Verifier, data []byte) head {
	opened, err := note.Open(data, note.VerifierList(verifier))
	check(err)
	lines := strings.Split(opened.Text, "\n")
	if lines[0] != verifier.Name() {
		check(errors.New("the origin is not the key's name"))
	}
	var size int64
	_, err = fmt.Sscanf(lines[1], "%d", &size)
	check(err)
	root, err := tlog.ParseHash(lines[2])
	check(err)
	return head{size, root}
}

func checkProofFile(verifier note.Verifier, proofPath, entryPath string) {
	data, err := os.ReadFile(proofPath)
	check(err)
	leaf, err := os.ReadFile(entryPath)
	check(err)
	top, checkpoint, _ := strings.Cut(string(data), "\n\n")
	lines := strings.Split(top, "\n")
	var index int64
	_, err = fmt.Sscanf(lines[1], "index %d", &index)
	check(err)
	var path tlog.RecordProof
	for _, line := range lines[2:] {
		hash, err := tlog.ParseHash(line)
		check(err)
		path = append(path, hash)
	}
	signed := parse(verifier, []byte(checkpoint))
	check(tlog.CheckRecord(path, signed.size, signed.root, index, tlog.RecordHash(leaf)))
}

func entry(dir string, size, index int64) []byte {
	number, width := index/256, int64(256)
	if number == size/256 {
		width = size % 256
	}
	data, err := os.ReadFile(filepath.Join(dir, path("entries", number, int(width))))
	check(err)
	for skip := index % 256; ; skip-- {
		length := binary.BigEndian.Uint16(data)
		if skip == 0 {
			return data[2 : 2+length]
		}
		data = data[2+length:]
	}
}

func path(level string, number int64, width int) string {
	text := fmt.Sprintf("%03d", number%1000)
	for number >= 1000 {
		number /= 1000
		text = fmt.Sprintf("x%03d/%s", number%1000, text)
	}
	if width < 256 {
		text += fmt.Sprintf(".p/%d", width)
	}
	return filepath.Join("tile", level, text)
}

type tiles struct{ dir string }

func (t tiles) Height() int                                { return 8 }
func (t tiles) SaveTiles(tiles []tlog.Tile, data [][]byte) {}
func (t tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range wanted {
		data, err := os.ReadFile(filepath.Join(t.dir, path(fmt.Sprint(tile.L), tile.N, tile.W)))
		if err != nil {
			return nil, err
		}
		found = append(found, data)
	}
	return found, nil
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
