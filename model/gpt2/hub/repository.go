package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"colophon/model/gpt2"
)

// recordFile is the file in the directory of a model that has its record: what the first
// pull of the model found.
const recordFile = "colophon.json"

// A record identifies the files of a model that a first pull found. It is stored in
// recordFile.
type record struct {
	Repository string       `json:"repository"`
	Revision   string       `json:"revision"` // commit
	Files      []recordItem `json:"files"`
}

type recordItem struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

var (
	// repositoryName matches names such as openai-community/gpt2. The hub does not allow
	// two hyphens or dots in a row.
	repositoryName = regexp.MustCompile(`^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$`)

	// revisionName matches names of branches and tags, commits, and pull requests such as
	// refs/pr/3.
	revisionName = regexp.MustCompile(`^(refs/pr/)?[A-Za-z0-9][\w.-]{0,95}$`)

	commitName = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)
	hexDigest  = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Repository returns the release with a name of the form ORG/NAME or ORG/NAME@REV. REV is
// a branch, a tag, a commit, or a pull request such as refs/pr/3. It returns false for
// other names. The release is not pinned.
func Repository(name string) (Release, bool) {
	repo, revision, named := strings.Cut(name, "@")
	if !repositoryName.MatchString(repo) || strings.Contains(repo, "--") || strings.Contains(name, "..") ||
		named && (!revisionName.MatchString(revision) || strings.Contains(revision, "--")) {
		return Release{}, false
	}
	return Release{Name: name, Repo: repo, Revision: revision}, true
}

// Pinned reports whether the files of a release are known. The files of other releases
// are known when they have been pulled.
func (r Release) Pinned() bool { return len(r.Files) > 0 }

// flat returns the name of a release as the name of a file. The hub's names have no two
// hyphens in a row.
func (r Release) flat() string {
	return strings.NewReplacer("/", "--", "@", "--at--").Replace(r.Name)
}

// Recorded returns the release with the revision and the files that the first pull into a
// directory of models found. It returns a pinned release unchanged. The error wraps
// [fs.ErrNotExist] if the release has not been pulled.
func (r Release) Recorded(models string) (Release, error) {
	if r.Pinned() {
		return r, nil
	}
	path := filepath.Join(r.Dir(models), recordFile)
	recorded, err := readRecord(path)
	if err != nil {
		return r, fmt.Errorf("read %s: %w", path, err)
	}
	if recorded.Repository != r.Repo {
		return r, fmt.Errorf("read %s: this is the record of %s, want %s", path, recorded.Repository, r.Repo)
	}
	r.Revision, r.Files = recorded.Revision, nil
	for _, f := range recorded.Files {
		r.Files = append(r.Files, File(f))
	}
	return r, nil
}

func readRecord(path string) (record, error) {
	f, err := os.Open(path)
	if err != nil {
		return record{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return record{}, err
	}
	return parseRecord(b)
}

func parseRecord(b []byte) (record, error) {
	var r record
	err := json.Unmarshal(b, &r)
	switch {
	case err != nil:
	case !commitName.MatchString(r.Revision), len(r.Files) == 0:
		err = errors.New("no revision or no files")
	case slices.ContainsFunc(r.Files, func(f recordItem) bool {
		return !isName(f.Name) || f.Size < 0 || !hexDigest.MatchString(f.SHA256)
	}):
		err = errors.New("a file without a name, size and digest")
	}
	return r, err
}

// isName reports whether a name is that of a file in the directory of a model.
func isName(name string) bool {
	return fs.ValidPath(name) && !strings.ContainsAny(name, `/\`) && name != "." && name != recordFile && len(name) < 255 && !strings.HasSuffix(name, ".part")
}

// Pulled returns the releases in a directory of models that were pulled by the name of
// their repository, in the order of their names.
func Pulled(models string) []Release {
	var found []Release
	paths, err := filepath.Glob(filepath.Join(models, "*--*", recordFile))
	if err != nil {
		return nil // models has a character that Glob does not take literally
	}
	for _, path := range paths {
		name := filepath.Base(filepath.Dir(path))
		name, revision, named := strings.Cut(name, "--at--")
		name = strings.Replace(name, "--", "/", 1)
		if named {
			name += "@" + strings.ReplaceAll(revision, "--", "/")
		}
		r, ok := Repository(name)
		if !ok {
			continue
		}
		if r, err := r.Recorded(models); err == nil {
			found = append(found, r)
		}
	}
	return found
}

// A listing is what the hub says about a revision of a repository.
type listing struct {
	Commit string `json:"sha"`
	Files  []struct {
		Name string `json:"rfilename"`
		Size *int64 `json:"size"`
		LFS  *struct {
			SHA256 string `json:"sha256"`
			Size   int64  `json:"size"`
		} `json:"lfs"`
	} `json:"siblings"`
}

// maxPlain is the largest size in bytes of a file that the hub does not store with
// Git LFS, whose digest it therefore does not give.
const maxPlain = 64 << 20

// parseListing reads a listing and returns the commit, and the files by name. Files in
// subdirectories are left out.
func parseListing(b []byte) (string, map[string]File, error) {
	var l listing
	if err := json.Unmarshal(b, &l); err != nil {
		return "", nil, fmt.Errorf("the answer is not a list of files: %w", err)
	}
	if !commitName.MatchString(l.Commit) {
		return "", nil, errors.New("the answer names no commit")
	}
	files := map[string]File{}
	for _, f := range l.Files {
		if !isName(f.Name) {
			continue
		}
		file := File{Name: f.Name}
		switch {
		case f.LFS != nil && hexDigest.MatchString(f.LFS.SHA256) && f.LFS.Size > 0:
			file.Size, file.SHA256 = f.LFS.Size, f.LFS.SHA256
		case f.LFS != nil, f.Size == nil || *f.Size < 0 || *f.Size > maxPlain:
			continue // without a digest, only small files can be fetched
		default:
			file.Size = *f.Size
		}
		files[f.Name] = file
	}
	return l.Commit, files, nil
}

// choose returns the files to fetch before the weights, and the file that has the weights
// or their index.
func choose(files map[string]File) (first []File, weights File, err error) {
	add := func(name string) bool {
		f, ok := files[name]
		if ok {
			first = append(first, f)
		}
		return ok
	}
	if !add(configFile) {
		return nil, File{}, errors.New("there is no config.json")
	}
	add("generation_config.json")
	vocab, merges := add("vocab.json"), add("merges.txt")
	if !add("tokenizer.json") && (!vocab || !merges) {
		return nil, File{}, errors.New("there is no tokenizer.json, and not both vocab.json and merges.txt: the tokenizer is of another kind")
	}
	if f := files["README.md"]; f.Size <= maxConfig {
		add("README.md")
	}
	if f, ok := files[weightsFile]; ok {
		return first, f, nil
	}
	if f, ok := files[indexFile]; ok {
		return first, f, nil
	}
	for _, name := range []string{"pytorch_model.bin", "pytorch_model.bin.index.json"} {
		if _, ok := files[name]; ok {
			return nil, File{}, fmt.Errorf("there is only %s, a pickle, which can run code when it is read, so it is not pulled. Is there a pull request with model.safetensors? Pull it as NAME@refs/pr/NUMBER. Otherwise convert it with transformers: AutoModelForCausalLM.from_pretrained(NAME).save_pretrained(DIR)", name)
		}
	}
	return nil, File{}, fmt.Errorf("there is no %s and no %s", weightsFile, indexFile)
}

// shards returns the files that an index of the weights names.
func shards(index []byte, files map[string]File) ([]File, error) {
	tensors, err := gpt2.ParseIndex(index)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", indexFile, err)
	}
	var found []File
	for _, name := range gpt2.Shards(tensors) {
		f, ok := files[name]
		if !ok {
			return nil, fmt.Errorf("%s names %s, which is not there", indexFile, name)
		}
		found = append(found, f)
	}
	return found, nil
}
