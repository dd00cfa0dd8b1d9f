-- +goose Up

-- watermark is the secret that marks the owner's texts, sealed by the master key of the id
-- watermark_master_key_id. It is null until the owner's first marked job, and after the
-- owner's erasure. Adding the columns rewrites no row, so the lock is brief.
alter table owner_keys
    add column watermark bytea,
    add column watermark_master_key_id bytea,
    add check ((watermark is null) = (watermark_master_key_id is null)),
    add check (watermark is null or erased_at is null);

-- The erasure of an owner destroys the secret too, by whatever program.
-- +goose StatementBegin
create function destroy_watermark() returns trigger language plpgsql as $$
begin
    new.watermark := null;
    new.watermark_master_key_id := null;
    return new;
end
$$;
-- +goose StatementEnd
create trigger watermark_goes_too before update of wrapped on owner_keys
    for each row when (new.wrapped is null) execute function destroy_watermark();

-- +goose Down
-- +goose StatementBegin
do $$ begin
    if exists (select from events where type = 'job.accepted' and position('"watermark":{'::bytea in payload) > 0) then
        raise exception 'marked jobs are on record, and the release before this one would run and replay them without their mark: restore the database from a backup';
    end if;
end $$;
-- +goose StatementEnd
drop trigger watermark_goes_too on owner_keys;
drop function destroy_watermark;
alter table owner_keys drop column watermark, drop column watermark_master_key_id;
