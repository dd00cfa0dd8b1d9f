package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sqlAt says which argument of pgx's methods, and of pg.DeleteBatches, is SQL.
// database/sql, whose methods take it elsewhere, is used by goose alone, on files
// that are embedded.
var sqlAt = map[string]int{"DeleteBatches": 4, "Exec": 1, "Query": 1, "QueryRow": 1, "Queue": 0, "Prepare": 2, "ExecParams": 1, "CopyTo": 2}

// put are the places where SQL is put together when the program runs, and why
// nobody outside of it has a say in it.
var put = map[string]string{
	"events/once.go fmt.Sprintf(`set local lock_timeout = %d`, tx.store.claimWait.Milliseconds())": "a number, and SET takes no parameters",
	"events/rebuild.go `delete from ` + view":                                                      "one of two names that stand beside it",
	"internal/auth/ended.go query":                                                                 "one of two constants",
	"internal/auth/run.go sql":                                                                     "put together from the constants above it",
	"test/chaos/postgres.go `select pid from pg_stat_activity where ` + which":                     "constants, in a program for tests",
	"internal/limit/store.go sql":                                                                  "constants of its callers, in the same file",
	"internal/pg/delete.go sql":                                                                    "the argument of its callers, which is checked there",
	"internal/pg/cluster.go `CREATE DATABASE ` + pgx.Identifier{…}.Sanitize()":                     "a quoted name of the program's own: statements that define take no parameters",
	"internal/pg/pool.go \"SET idle_in_transaction_session_timeout = '3s'; SET ROLE \" + pgx.Identifier{…}.Sanitize()": "a quoted name of the program's own: SET takes no parameters",
}

// TestSQLIsConstant type-checks each package by itself, which is enough to know
// what is a constant: what the product sends to Postgres is written down in it,
// and values come as parameters.
//
// security: ASVS 1.2.4
func TestSQLIsConstant(t *testing.T) {
	calls, seen := 0, map[string]bool{}
	known := packages{}
	err := filepath.WalkDir("../..", func(dir string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if name := entry.Name(); name == ".git" || name == "testdata" || name == "pgtest" {
			return fs.SkipDir
		}
		files := token.NewFileSet()
		parsed, err := parse(files, dir)
		if err != nil {
			return err
		}
		n, found := notConstant(known, files, parsed)
		calls += n
		for _, where := range found {
			name, _ := filepath.Rel("../..", where)
			seen[name] = true
			if put[name] == "" {
				t.Errorf("SQL that is no constant: %s", name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(put)) {
		if !seen[name] {
			t.Errorf("there is no longer any %s", name)
		}
	}
	if calls < 80 {
		t.Errorf("only %d statements were looked at", calls)
	}
}

// packages imports the packages of this module, for their constants. All others
// are empty.
type packages map[string]*types.Package

func (known packages) Import(path string) (*types.Package, error) {
	if p, ok := known[path]; ok {
		return p, nil
	}
	p := types.NewPackage(path, filepath.Base(path))
	if dir, ok := strings.CutPrefix(path, "colophon/"); ok {
		files := token.NewFileSet()
		parsed, err := parse(files, filepath.Join("../..", dir))
		if err != nil {
			return nil, err
		}
		p, _ = known.check(files, parsed, nil)
	}
	p.MarkComplete()
	known[path] = p
	return p, nil
}

// check type-checks a package as far as it does not depend on what is not known.
func (known packages) check(files *token.FileSet, parsed []*ast.File, info *types.Info) (*types.Package, error) {
	config := types.Config{Importer: known, Error: func(error) {}}
	return config.Check("p", files, parsed, info)
}

// parse parses the files of a package that are no tests.
func parse(files *token.FileSet, dir string) (parsed []*ast.File, err error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, file)
	}
	return parsed, nil
}

// notConstant returns how many statements a package has, and the file and text
// of those that are no constants.
func notConstant(known packages, files *token.FileSet, parsed []*ast.File) (calls int, found []string) {
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	_, _ = known.check(files, parsed, info) // all that comes from elsewhere is an error
	for _, file := range parsed {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			at, ok := sqlAt[method.Sel.Name]
			if !ok || len(call.Args) <= at {
				return true // of a batch's result, or a URL
			}
			calls++
			if arg := call.Args[at]; info.Types[arg].Value == nil {
				found = append(found, files.Position(arg.Pos()).Filename+" "+types.ExprString(arg))
			}
			return true
		})
	}
	return calls, found
}

func TestSQLThatIsNotConstantIsFound(t *testing.T) {
	const code = `package p
import ("context"; "fmt"; "example.com/pgx"; "example.com/other"; "colophon/migrations")
const columns = "a, b"
const table = "t" + columns
var changed = "c"
func f(ctx context.Context, db pgx.DB, name string) {
	const local = "x"
	db.Exec(ctx, "select " + columns + table + local, name)
	db.Queue(columns)
	db.Queue("b", name).Exec(func() {})
	db.Query("not SQL")
	{
		columns := name
		db.QueryRow(ctx, columns)
	}
	db.Exec(ctx, "select " + name)
	db.Exec(ctx, changed)
	db.Query(ctx, fmt.Sprintf("select %s", columns))
	db.Queue(other.Text)
	db.Queue("select from " + migrations.RiverJobs)
	db.Queue("select " + migrations.ErrBehind.Error())
	func() { db.Query(ctx, name) }()
}`
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, "f", code, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	calls, found := notConstant(packages{}, files, []*ast.File{file})
	want := []string{"f columns", `f "select " + name`, "f changed", `f fmt.Sprintf("select %s", columns)`, "f other.Text", `f "select " + migrations.ErrBehind.Error()`, "f name"}
	if calls != 11 || !slices.Equal(found, want) {
		t.Errorf("%d calls, %q", calls, found)
	}
}
