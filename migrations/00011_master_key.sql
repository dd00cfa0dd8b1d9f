-- +goose Up

-- master_key_id is the id of the master key that sealed the row. The id is derived from
-- the key and reveals nothing of it. Rows from before this migration have no id, and the
-- database's first master key sealed them. Adding the columns rewrites no row, so the
-- locks are brief.
alter table owner_keys add column master_key_id bytea;
alter table signing_keys add column master_key_id bytea;

-- The only row is the id of the database's master key. The first process that proves its
-- key writes the row, so two processes with keys of their own cannot both start on an
-- empty database.
create table master_key (
    one boolean primary key default true check (one),
    id  bytea   not null check (length(id) = 16)
);
grant select, insert on master_key to colophon_app;

-- +goose Down
drop table master_key;
alter table signing_keys drop column master_key_id;
alter table owner_keys drop column master_key_id;
