package migrations

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// grantLine is a statement of a migration that gives AppRole rights, or takes some away.
var grantLine = regexp.MustCompile(`(?m)^(?:grant .+ on (.+) to|revoke .+ from) ` + AppRole + `;$`)

// grants returns the statements that give AppRole exactly its rights. They mend a
// database in which rights are missing or were changed. They are the statements of all
// migrations, in which each such statement is one line. AppRole also gets the default
// rights of PUBLIC, because an administrator may have revoked them from PUBLIC. River
// deletes and updates its own rows.
func grants() (string, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return "", err
	}
	var sql, lines strings.Builder
	for _, name := range names { // sorted, so in the order of the migrations
		text, err := files.ReadFile(name)
		if err != nil {
			return "", err
		}
		up, _, _ := strings.Cut(string(text), "-- +goose Down")
		for _, m := range grantLine.FindAllStringSubmatch(up, -1) {
			if what := m[1]; what != "" {
				fmt.Fprintf(&sql, "revoke all on %s from public, %s;\n", what, AppRole)
			}
			fmt.Fprintln(&lines, m[0])
		}
	}
	sql.WriteString(lines.String())
	sql.WriteString(`
do $$ begin execute format('grant usage on schema %I to ` + AppRole + `', current_schema()); end $$;
revoke all on goose_db_version from public, ` + AppRole + `;
grant select on goose_db_version to ` + AppRole + `;
grant execute on function admit(uuid), sealed_by(uuid, integer, bytea), sign_in_wait(integer, integer, interval, interval) to ` + AppRole + `;
grant usage on schema ` + RiverSchema + ` to ` + AppRole + `;
grant select, insert, update, delete on all tables in schema ` + RiverSchema + ` to ` + AppRole + `;
grant usage on all sequences in schema ` + RiverSchema + ` to ` + AppRole + `;
grant execute on all functions in schema ` + RiverSchema + ` to ` + AppRole + `;`)
	return sql.String(), nil
}

// ensureRole creates AppRole, takes its login and its attributes away, and makes the
// pool's role a member of AppRole.
func ensureRole(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, `
		do $$
		begin
			begin
				if not exists (select from pg_roles where rolname = '`+AppRole+`') then
					create role `+AppRole+` nologin;
				end if;
			exception when duplicate_object or unique_violation then null; -- created for another database meanwhile
			end;
			if exists (select from pg_roles where rolname = '`+AppRole+`'
				and (rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls))
			then
				alter role `+AppRole+` nologin nosuperuser nocreaterole nocreatedb noreplication nobypassrls;
			end if;
			grant `+AppRole+` to current_user;
		exception when insufficient_privilege then
			if not exists (select from pg_roles where rolname = '`+AppRole+`' and not rolcanlogin and not rolsuper)
				or not pg_has_role(current_user, '`+AppRole+`',
				case when current_setting('server_version_num')::int < 160000 then 'member' else 'set' end)
			then
				raise;
			end if;
		end
		$$`)
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "42501" { // the code means insufficient_privilege
		user := pgx.Identifier{pool.Config().ConnConfig.User}.Sanitize()
		return fmt.Errorf("%s needs the role %s and may not create, change or grant it: run as a superuser: create role %[2]s nologin; grant %[2]s to %[1]s (%[3]w)",
			user, AppRole, err)
	}
	return err
}

// checkOwner returns an error if this program's tables belong to a role that the pool's
// role cannot act as, as after a restore by another role.
func checkOwner(ctx context.Context, pool *pgxpool.Pool) error {
	var owner, user string
	err := pool.QueryRow(ctx, `
		select pg_get_userbyid(relowner), current_user from pg_class
		where (relname in ('events', 'goose_db_version') and relnamespace = current_schema()::regnamespace
				or relname = 'river_job' and relnamespace = to_regnamespace('`+RiverSchema+`'))
			and not pg_has_role(current_user, relowner, 'usage')
		limit 1`).Scan(&owner, &user)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the owner of the tables: %w", err)
	}
	owner, user = pgx.Identifier{owner}.Sanitize(), pgx.Identifier{user}.Sanitize()
	return fmt.Errorf("the tables belong to %s: migrate as %[1]s, or run as a superuser: reassign owned by %[1]s to %[2]s", owner, user)
}

// AddLogin makes login a member of AppRole, and creates login if it is missing. It is for
// a server that asks for no password. The pool's role must be a superuser.
func AddLogin(ctx context.Context, pool *pgxpool.Pool, login string) error {
	name := pgx.Identifier{login}.Sanitize()
	_, err := pool.Exec(ctx, `create role `+name+` login in role `+AppRole)
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && (pgErr.Code == "42710" || pgErr.Code == "23505") { // the login exists, or another process has just created it
		_, err = pool.Exec(ctx, `grant `+AppRole+` to `+name)
	}
	if err != nil {
		return fmt.Errorf("add the login %s: %w", login, err)
	}
	return nil
}

// A Login is the role that a pool has connected as. It stays the same when the connections
// act as AppRole.
type Login struct {
	Name string

	// Power describes what lets this login change the log of events. It is empty if nothing
	// does. RESET ROLE gives a connection this power, even if it acts as
	// AppRole.
	Power string

	// Member reports whether the login has the rights of AppRole without SET ROLE.
	Member bool

	// Settings are the statements that give the login the settings of the service's
	// sessions, where these are missing. They matter to connections that may not SET.
	Settings string
}

// LoginOf returns the login of a pool. AppRole need not exist.
func LoginOf(ctx context.Context, pool *pgxpool.Pool) (l Login, err error) {
	err = pool.QueryRow(ctx, `
		select session_user::text,
			case
			when rolsuper then 'is a superuser'
			when rolcreaterole then 'may create roles'
			when exists (select from pg_roles other where pg_has_role(session_user, other.oid, 'member') and (other.rolsuper or other.rolcreaterole
				or other.rolname in ('pg_execute_server_program', 'pg_write_server_files')))
				then 'can act as a role that has power over the server'
			when exists (select from pg_database where datname = current_database() and pg_has_role(session_user, datdba, 'member'))
				then 'can act as the owner of the database'
			when exists (select from pg_namespace where nspname in (current_schema(), '`+RiverSchema+`') and pg_has_role(session_user, nspowner, 'member'))
				then 'can act as the owner of the schema'
			when exists (select from pg_class where oid = to_regclass('events') and pg_has_role(session_user, relowner, 'member'))
				then 'can act as the owner of the tables'
			else '' end,
			coalesce((select pg_has_role(session_user, oid, 'usage') from pg_roles where rolname = '`+AppRole+`'), false),
			(select coalesce(string_agg(format('alter role %I set %s = %L', session_user, name, wanted), '; '), '') from (values
				('idle_in_transaction_session_timeout', '3s', array['0']),
				('statement_timeout', '10s', array['0']),
				('synchronous_commit', 'on', array['off', 'local', 'remote_write'])
			) as s (name, wanted, bad) where current_setting(name) = any(bad))
		from pg_roles where rolname = session_user`).Scan(&l.Name, &l.Power, &l.Member, &l.Settings)
	if err != nil {
		return l, fmt.Errorf("read the rights of the database login: %w", err)
	}
	return l, nil
}

// WithoutSet returns an error unless connections of the login have the rights of AppRole
// and no others, and the settings of the service, without SET ROLE and SET.
func (l Login) WithoutSet() error {
	name := pgx.Identifier{l.Name}.Sanitize()
	switch {
	case l.Power != "":
		return fmt.Errorf("the service has all rights of its login, and %s %s: use a login that is only a member of %s", name, l.Power, AppRole)
	case !l.Member:
		return fmt.Errorf("the login must have the rights of %s: run as the owner: grant %[1]s to %[2]s; alter role %[2]s inherit", AppRole, name)
	case l.Settings != "":
		return fmt.Errorf("the settings of sessions are those of the login: run as the owner: %s; then RECONNECT in the pooler", l.Settings)
	}
	return nil
}
