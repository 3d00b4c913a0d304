//! `ChainStoreService`: the chains that can be run by id.
//!
//! A chain is stored as it came, once its templates could be read.

use std::mem::take;
use std::time::Duration;

use intellirouter_proto::intellirouter::chain_engine::v1::chain_store_service_server::ChainStoreService;
use intellirouter_proto::intellirouter::chain_engine::v1::{
    DeleteChainRequest, DeleteChainResponse, GetChainRequest, GetChainResponse, ListChainsRequest,
    ListChainsResponse, PutChainRequest, PutChainResponse,
};
use intellirouter_proto::intellirouter::common::v1::Status as Ended;
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::error::EngineError;
use super::limits::PAGE;
use super::{ChainEngine, table, validate};

/// How long a PutChain waits until its templates are read: others may come first.
const TO_COMPILE: Duration = Duration::from_secs(10);

#[tonic::async_trait]
impl ChainStoreService for ChainEngine {
    async fn put_chain(
        &self,
        request: Request<PutChainRequest>,
    ) -> Result<Response<PutChainResponse>, Status> {
        let mut chain = validate::chain_to_store(request.into_inner().chain)?;
        let compiling = self.parts.compiler.compile(take(&mut chain.steps), ());
        let compiled = timeout(TO_COMPILE, compiling).await;
        chain.steps = compiled.map_err(|_| EngineError::CompilerBusy)??.steps;
        let settings = &self.parts.settings;
        let (max, max_bytes) = (settings.max_chains, settings.max_chain_bytes);
        let put = move |db: &_| {
            let created = table::put_chain(db, &chain, max, max_bytes)?;
            Ok::<_, EngineError>((chain, created))
        };
        let (chain, created) = self.parts.database.write(put).await?;
        tracing::info!(chain_id = chain.id, created, "chain stored");
        Ok(Response::new(PutChainResponse {
            status: Ended::Success.into(),
            chain: Some(chain),
            created,
        }))
    }

    async fn get_chain(
        &self,
        request: Request<GetChainRequest>,
    ) -> Result<Response<GetChainResponse>, Status> {
        let id = request.into_inner().chain_id;
        validate::chain_id(&id)?;
        let chain = self.parts.database.read(move |db| table::chain(db, &id));
        Ok(Response::new(GetChainResponse {
            status: Ended::Success.into(),
            chain: Some(chain.await?),
        }))
    }

    async fn list_chains(
        &self,
        request: Request<ListChainsRequest>,
    ) -> Result<Response<ListChainsResponse>, Status> {
        let request = request.into_inner();
        validate::page(&request)?;
        let limit = match request.limit {
            0 => PAGE,
            limit => limit,
        };
        let page = move |db: &_| table::page(db, &request.after_id, limit as usize);
        let (chains, more) = self.parts.database.read(page).await?;
        Ok(Response::new(ListChainsResponse {
            status: Ended::Success.into(),
            chains,
            more,
        }))
    }

    async fn delete_chain(
        &self,
        request: Request<DeleteChainRequest>,
    ) -> Result<Response<DeleteChainResponse>, Status> {
        let id = request.into_inner().chain_id;
        validate::chain_id(&id)?;
        let delete = move |db: &_| table::delete_chain(db, &id);
        let chain = self.parts.database.write(delete).await?;
        tracing::info!(chain_id = chain.id, "chain deleted");
        Ok(Response::new(DeleteChainResponse {
            status: Ended::Success.into(),
            chain: Some(chain),
        }))
    }
}
