-- +goose Up

-- This index finds the newest jobs of an owner in any state, and counts their tokens without
-- a look at the table. The jobs of an owner have few models and states. A reader takes the
-- newest of each, so the number of the other jobs does not matter.
create index history_of_owner on history (owner, model, state, created_at desc, job desc) include (prompt_tokens, completion_tokens);

-- +goose Down
drop index history_of_owner;
