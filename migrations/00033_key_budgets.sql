-- +goose Up

-- The key's own budget of tokens per day, or null. Its spending is in the table budgets,
-- where the column owner has the id of an account or of an API key. These never coincide.
alter table api_keys add column tokens integer check (tokens > 0);

-- The API key that submitted the job, or null. The index counts the usage of a key without a
-- look at the table.
alter table history add column api_key uuid;
create index history_of_key on history (api_key, created_at) include (owner, prompt_tokens, completion_tokens) where api_key is not null;

-- +goose Down
-- +goose StatementBegin
do $$ begin
    if exists (select from history where api_key is not null) or exists (select from api_keys where tokens is not null) then
        raise exception 'jobs have the API keys that submitted them, which the release before this one cannot read: restore the database from a backup';
    end if;
end $$;
-- +goose StatementEnd
drop index history_of_key;
alter table history drop column api_key;
alter table api_keys drop column tokens;
