// Audits a log exported to a directory with golang.org/x/mod/sumdb, by the authors of Go's
// checksum database: its signed notes, its RFC 6962 tree and its tile reader, no line of Umay.
//
// usage: audit DIR VKEY [SIZE...]
//
// The tree of all leaves in the entry bundles must have the signed root, every tile must be that
// tree's, and each older SIZE's checkpoint a prefix of it, proven through the tiles. Prints one
// line of JSON, or the first fault to stderr with exit code 1.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const tileHeight, width = 8, 256

type export struct{ dir string }

func (e *export) Height() int { return tileHeight }

// ReadTiles finds tiles under C2SP's names, which leave out Go's tile height.
func (e *export) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		name := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		data, err := os.ReadFile(filepath.Join(e.dir, name))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func (e *export) SaveTiles([]tlog.Tile, [][]byte) {}

func (e *export) checkpoint(name string, verifier note.Verifier) (tlog.Tree, error) {
	var tree tlog.Tree
	signed, err := os.ReadFile(filepath.Join(e.dir, name))
	if err != nil {
		return tree, err
	}
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return tree, fmt.Errorf("%s: %w", name, err)
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return tree, fmt.Errorf("%s: no checkpoint of %s", name, verifier.Name())
	}
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return tree, err
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return tree, fmt.Errorf("%s: no root hash", name)
	}
	copy(tree.Hash[:], root)
	return tree, nil
}

// leaves reads an entry bundle: each leaf behind its length in two bytes.
func leaves(bundle []byte) ([][]byte, error) {
	var all [][]byte
	for len(bundle) > 0 {
		if len(bundle) < 2 {
			return nil, fmt.Errorf("half a length")
		}
		size := int(binary.BigEndian.Uint16(bundle))
		if len(bundle) < 2+size {
			return nil, fmt.Errorf("half a leaf")
		}
		all, bundle = append(all, bundle[2:2+size]), bundle[2+size:]
	}
	return all, nil
}

// entries builds Go's own tree from every leaf and compares its root with the signed one.
func (e *export) entries(tree tlog.Tree) (tlog.HashReader, error) {
	built := &memory{}
	for number := int64(0); number*width < tree.N; number++ {
		tile := tlog.Tile{H: tileHeight, L: 0, N: number, W: width}
		if left := tree.N - number*width; left < width {
			tile.W = int(left)
		}
		name := strings.Replace(tile.Path(), "tile/8/0/", "tile/entries/", 1)
		bundle, err := os.ReadFile(filepath.Join(e.dir, name))
		if err != nil {
			return nil, err
		}
		found, err := leaves(bundle)
		if err != nil || len(found) != tile.W {
			return nil, fmt.Errorf("%s: %d leaves, not %d (%v)", name, len(found), tile.W, err)
		}
		for i, leaf := range found {
			if err := built.add(number*width+int64(i), leaf); err != nil {
				return nil, err
			}
		}
	}
	root, err := tlog.TreeHash(tree.N, built)
	if err == nil && root != tree.Hash {
		err = fmt.Errorf("the leaves have the root %v, signed is %v", root, tree.Hash)
	}
	return built, err
}

// memory is a tree's stored hashes in tlog's order.
type memory []tlog.Hash

func (m *memory) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var found []tlog.Hash
	for _, index := range indexes {
		found = append(found, (*m)[index])
	}
	return found, nil
}

func (m *memory) add(index int64, leaf []byte) error {
	hashes, err := tlog.StoredHashes(index, leaf, m)
	*m = append(*m, hashes...)
	return err
}

// tiles compares every tile with the tree's: TileHashReader of x/mod 0.7.0 begins to check
// child tiles at the wrong one, and takes some without any check.
func (e *export) tiles(tree tlog.Tree, built tlog.HashReader) (int, error) {
	all := 0
	for _, tile := range tlog.NewTiles(tileHeight, 0, tree.N) {
		if last := tree.N >> uint(tileHeight*tile.L); tile.W < width && last%width != int64(tile.W) {
			continue // Go lists every partial tile on the way, C2SP wants the last
		}
		all++
		expected, err := tlog.ReadTileData(tile, built)
		if err != nil {
			return 0, err
		}
		got, err := e.ReadTiles([]tlog.Tile{tile})
		if err != nil {
			return 0, err
		}
		if !bytes.Equal(got[0], expected) {
			return 0, fmt.Errorf("%s is another tile", tile.Path())
		}
	}
	return all, nil
}

func (e *export) prefix(size string, tree tlog.Tree, hashes tlog.HashReader, v note.Verifier) error {
	old, err := e.checkpoint("checkpoints/"+size, v)
	if err != nil {
		return err
	}
	proof, err := tlog.ProveTree(tree.N, old.N, hashes)
	if err != nil {
		return err
	}
	return tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash)
}

func audit(dir, vkey string, sizes []string) error {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return err
	}
	e := &export{dir: dir}
	tree, err := e.checkpoint("checkpoint", verifier)
	if err != nil {
		return err
	}
	built, err := e.entries(tree)
	if err != nil {
		return err
	}
	count, err := e.tiles(tree, built)
	if err != nil {
		return err
	}
	hashes := tlog.TileHashReader(tree, e)
	for _, size := range sizes {
		if err := e.prefix(size, tree, hashes, verifier); err != nil {
			return fmt.Errorf("size %s: %w", size, err)
		}
	}
	said := map[string]any{
		"entries": tree.N, "root": tree.Hash.String(), "tiles": count, "prefixes": len(sizes),
	}
	return json.NewEncoder(os.Stdout).Encode(said)
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: audit DIR VKEY [SIZE...]")
		os.Exit(2)
	}
	if err := audit(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
