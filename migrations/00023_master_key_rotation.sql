-- +goose Up

-- previous is the id of the master key that sealed before, while rows may still be sealed
-- with it. retired has the ids of the keys that were replaced. digest is the key of keyed
-- digests, sealed with the key that seals. It is null until the first rotation, because it is
-- derived from the first master key. Only the owner of the database changes them. Adding the
-- columns rewrites no row, so the lock is brief.
alter table master_key add column previous bytea check (length(previous) = 16);
alter table master_key add column retired bytea[] not null default '{}';
alter table master_key add column digest bytea;

-- +goose Down
lock table master_key in access exclusive mode;
-- +goose StatementBegin
do $$ begin
    if exists (select from master_key where digest is not null) then
        raise exception 'after a rotation of the master key, earlier releases compute other digests: restore the database from a backup';
    end if;
end $$;
-- +goose StatementEnd
alter table master_key drop column digest;
alter table master_key drop column retired;
alter table master_key drop column previous;
