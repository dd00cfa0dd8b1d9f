-- +goose Up

-- username_skeleton is the same for names that look alike although their scripts differ.
-- The skeleton of an ASCII name is its key. A name from before this migration that is not
-- ASCII keeps its key as its skeleton. An erased account has no skeleton.
alter table accounts add column username_skeleton text collate "C" unique;
update accounts set username_skeleton = username_key where erased_at is null and username_key <> '';

-- +goose Down
alter table accounts drop column username_skeleton;
