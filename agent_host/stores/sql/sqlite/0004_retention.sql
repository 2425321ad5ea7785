-- Finding what nothing needs any more: what refers to a commit, whosever it is, and how old compactions are. Where many
-- responses stand at one commit, most of them have failed; so the index takes all of them.

DROP INDEX responses_by_start;
CREATE INDEX responses_by_commit ON responses (commit_id, user_id);
DROP INDEX commits_by_parent;
CREATE INDEX commits_by_parent ON commits (parent, user_id);
DROP INDEX conversations_by_head;
CREATE INDEX conversations_by_head ON conversations (head, user_id) WHERE head IS NOT NULL;
DROP INDEX compactions_by_commit;
CREATE INDEX compactions_by_commit ON compactions (commit_id, user_id) WHERE commit_id IS NOT NULL;
CREATE INDEX compactions_by_time ON compactions (created_at);
CREATE INDEX heads_by_commit ON heads (commit_id, user_id);
CREATE INDEX turns_by_start ON turns (start_commit, user_id);

-- Where an item lies is known of every response that brought it, so that it is found when another one of them goes.
DROP TABLE item_places;
CREATE TABLE item_places (
    user_id TEXT NOT NULL,
    id TEXT NOT NULL,
    response_id TEXT NOT NULL,
    PRIMARY KEY (user_id, id, response_id)
) WITHOUT ROWID;
INSERT OR IGNORE INTO item_places (user_id, id, response_id)
SELECT r.user_id, i.value, r.id FROM responses AS r, json_each(CAST(r.items AS TEXT)) AS i WHERE r.items IS NOT NULL;
