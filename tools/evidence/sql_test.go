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

// sqlAt says which argument of pgx's methods is SQL. database/sql, whose methods
// take it elsewhere, is used by goose alone, on files that are embedded.
var sqlAt = map[string]int{"Exec": 1, "Query": 1, "QueryRow": 1, "Queue": 0, "Prepare": 2, "ExecParams": 1, "CopyTo": 2}

// put are the places where SQL is put together when the program runs, and why
// nobody outside of it has a say in it.
var put = map[string]string{
	"events/once.go fmt.Sprintf(`set local lock_timeout = %d`, claimWait.Milliseconds())": "a number, and SET takes no parameters",
	"events/rebuild.go `delete from ` + view":                                             "one of two names that stand beside it",
	"internal/auth/ended.go query":                                                        "one of two constants",
	"internal/auth/collect.go sql":                                                        "put together from the constants above it",
	"events/once.go statement":                                                            "constants of its callers, in the same package",
	"test/chaos/postgres.go `select pid from pg_stat_activity where ` + which":            "constants, in a program for tests",
	"internal/limit/store.go sql":                                                         "constants of its callers, in the same file",
	"internal/pg/cluster.go `CREATE DATABASE ` + pgx.Identifier{…}.Sanitize()":            "a quoted name of the program's own: statements that define take no parameters",
	"internal/pg/pool.go \"SET idle_in_transaction_session_timeout = '3s'; SET ROLE \" + pgx.Identifier{…}.Sanitize()": "a quoted name of the program's own: SET takes no parameters",
}

// TestSQLIsConstant type-checks each package by itself, which is enough to know
// what is a constant: what the product sends to Postgres is written down in it,
// and values come as parameters.
//
// security: ASVS 1.2.4
func TestSQLIsConstant(t *testing.T) {
	calls, seen := 0, map[string]bool{}
	err := filepath.WalkDir("../..", func(dir string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if name := entry.Name(); name == ".git" || name == "testdata" || name == "pgtest" {
			return fs.SkipDir
		}
		files := token.NewFileSet()
		paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			return err
		}
		var parsed []*ast.File
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			parsed = append(parsed, file)
		}
		n, found := notConstant(files, parsed)
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

// nothing stands for every package that is imported.
type nothing struct{}

func (nothing) Import(path string) (*types.Package, error) {
	p := types.NewPackage(path, filepath.Base(path))
	p.MarkComplete()
	return p, nil
}

// notConstant returns how many statements a package has, and the file and text
// of those that are no constants.
func notConstant(files *token.FileSet, parsed []*ast.File) (calls int, found []string) {
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	config := types.Config{Importer: nothing{}, Error: func(error) {}} // whatever comes from elsewhere is one
	_, _ = config.Check("p", files, parsed, info)
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
import ("context"; "fmt"; "example.com/pgx"; "example.com/other")
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
	func() { db.Query(ctx, name) }()
}`
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, "f", code, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	calls, found := notConstant(files, []*ast.File{file})
	want := []string{"f columns", `f "select " + name`, "f changed", `f fmt.Sprintf("select %s", columns)`, "f other.Text", "f name"}
	if calls != 9 || !slices.Equal(found, want) {
		t.Errorf("%d calls, %q", calls, found)
	}
}
