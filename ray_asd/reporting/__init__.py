"""What a person looks at: a scores table as one page with plots and sound. No part imports ray."""
